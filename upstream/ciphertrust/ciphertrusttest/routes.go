package ciphertrusttest

import (
	"slices"
	"strings"
)

// anyone is whoever is logged in.
func anyone(*call) bool { return true }

// members are those in one of the groups, and administrators.
func members(groups ...string) func(*call) bool {
	return func(c *call) bool { return c.in(groups...) }
}

// table is everything that can be called.
func (s *Server) table() []route {
	return slices.Concat(s.authRoutes(), s.userRoutes(), s.caRoutes(), s.vaultRoutes(), s.clientRoutes(), s.systemRoutes())
}

// on is a route; a nil allow needs no token.
func on(method, path string, status int, allow func(*call) bool, handle func(*call) (any, *refusal)) route {
	return route{method: method, path: strings.Split(strings.TrimPrefix(path, "/"), "/"), status: status, allow: allow, handle: handle}
}

func (s *Server) authRoutes() []route {
	return []route{
		on("POST", "/auth/tokens", 200, nil, s.issueToken),
		on("POST", "/auth/revoke", 204, nil, s.revokeToken),
		on("PATCH", "/auth/changepw", 204, nil, s.changePassword),
		on("GET", "/auth/tokens", 200, anyone, s.listTokens),
		on("GET", "/auth/tokens/{id}", 200, anyone, s.getToken),
		on("DELETE", "/auth/tokens/{id}", 204, anyone, s.deleteToken),
		on("GET", "/auth/self/user", 200, anyone, s.selfUser),
		on("PATCH", "/auth/self/user", 200, anyone, s.patchSelf),
		on("GET", "/auth/self/domains", 200, anyone, s.selfDomains),
		on("GET", "/auth/auth-key", 200, members(), s.getAuthKey),
		on("POST", "/auth/rotate-auth-key", 200, members(), s.rotateAuthKey),
		on("POST", "/auth/self/registration", 201, nil, s.registerClient),
	}
}

func (s *Server) userRoutes() []route {
	admins := members("User Admins")
	return []route{
		on("GET", "/usermgmt/users", 200, admins, s.listUsers),
		on("POST", "/usermgmt/users", 201, admins, s.createUser),
		on("GET", "/usermgmt/users/{user}", 200, anyone, s.getUser),
		on("PATCH", "/usermgmt/users/{user}", 200, anyone, s.patchUser),
		on("DELETE", "/usermgmt/users/{user}", 204, anyone, s.deleteUser),
		on("GET", "/usermgmt/pwdpolicies", 200, admins, s.listPolicies),
		on("POST", "/usermgmt/pwdpolicies", 201, admins, s.createPolicy),
		on("GET", "/usermgmt/pwdpolicies/{policy}", 200, admins, s.getPolicy),
		on("PATCH", "/usermgmt/pwdpolicies/{policy}", 200, admins, s.patchPolicy),
		on("DELETE", "/usermgmt/pwdpolicies/{policy}", 204, admins, s.deletePolicy),
		on("GET", "/usermgmt/groups", 200, admins, s.listGroups),
		on("POST", "/usermgmt/groups", 201, admins, s.createGroup),
		on("GET", "/usermgmt/groups/{group}", 200, admins, s.getGroup),
		on("PATCH", "/usermgmt/groups/{group}", 200, admins, s.patchGroup),
		on("DELETE", "/usermgmt/groups/{group}", 204, admins, s.deleteGroup),
		on("POST", "/usermgmt/groups/{group}/users/{user}", 200, admins, s.addMember),
		on("DELETE", "/usermgmt/groups/{group}/users/{user}", 204, admins, s.removeMember),
		on("POST", "/usermgmt/groups/{group}/clients/{client}", 200, admins, s.addClientMember),
		on("DELETE", "/usermgmt/groups/{group}/clients/{client}", 204, admins, s.removeClientMember),
	}
}

func (s *Server) caRoutes() []route {
	admins := members("CA Admins")
	const local = "/ca/local-cas"
	return []route{
		on("GET", local, 200, anyone, s.listCAs),
		on("POST", local, 201, admins, s.createCA),
		on("GET", local+"/{ca}", 200, anyone, s.getCA),
		on("PATCH", local+"/{ca}", 200, admins, s.patchCA),
		on("DELETE", local+"/{ca}", 204, admins, s.deleteCA),
		on("POST", local+"/{ca}/self-sign", 200, admins, s.selfSign),
		on("POST", local+"/{ca}/install", 200, admins, s.installCA),
		on("GET", local+"/{ca}/certs", 200, anyone, s.listCerts),
		on("POST", local+"/{ca}/certs", 201, admins, s.issueCert),
		on("GET", local+"/{ca}/certs/{cert}", 200, anyone, s.getCert),
		on("DELETE", local+"/{ca}/certs/{cert}", 204, admins, s.deleteCert),
		on("POST", local+"/{ca}/certs/{cert}/revoke", 200, admins, s.revokeCert),
		on("POST", local+"/{ca}/certs/{cert}/resume", 200, admins, s.resumeCert),
		on("GET", "/ca/external-cas", 200, anyone, s.listExternal),
		on("POST", "/ca/external-cas", 201, admins, s.uploadExternal),
		on("GET", "/ca/external-cas/{ca}", 200, anyone, s.getExternal),
		on("PATCH", "/ca/external-cas/{ca}", 200, admins, s.patchExternal),
		on("DELETE", "/ca/external-cas/{ca}", 204, admins, s.deleteExternal),
		on("POST", "/ca/csr", 200, anyone, s.makeCSR),
	}
}

func (s *Server) vaultRoutes() []route {
	users := members("Key Users", "Key Admins")
	const secrets, keys = "/vault/secrets", "/vault/keys2"
	list := []route{
		on("GET", secrets, 200, anyone, s.listSecrets),
		on("POST", secrets, 201, users, s.createSecret),
		on("POST", secrets+"/{object}/export", 200, anyone, s.exportSecret),
		on("POST", secrets+"/{object}/versions", 201, anyone, s.addVersion),
		on("GET", keys, 200, anyone, s.listKeys),
		on("POST", keys, 201, users, s.createKey),
		on("POST", keys+"/{object}/export", 200, anyone, s.exportKey),
		on("POST", keys+"/{object}/versions", 201, anyone, s.rotateKey),
		on("POST", keys+"/{object}/revoke", 200, anyone, s.revokeKey),
		on("POST", keys+"/{object}/reactivate", 200, anyone, s.reactivateKey),
		on("POST", keys+"/{object}/archive", 200, anyone, s.archiveKey),
		on("POST", keys+"/{object}/recover", 200, anyone, s.recoverKey),
		on("POST", keys+"/{object}/clone", 201, users, s.cloneKey),
		on("POST", "/vault/csr", 200, users, s.vaultCSR),
		on("GET", "/vault/random", 200, anyone, s.random),
	}
	for _, path := range []string{secrets, keys} {
		list = append(list,
			on("GET", path+"/{object}", 200, anyone, s.getObject),
			on("PATCH", path+"/{object}", 200, anyone, s.patchObject),
			on("DELETE", path+"/{object}", 204, anyone, s.deleteObject),
			on("POST", path+"/{object}/destroy", 200, anyone, s.destroyObject),
			on("GET", path+"/{object}/versions", 200, anyone, s.listVersions))
	}
	for _, r := range []route{
		on("POST", "/crypto/encrypt", 200, anyone, s.encrypt),
		on("POST", "/crypto/decrypt", 200, anyone, s.decrypt),
		on("POST", "/crypto/sign", 200, anyone, s.signData),
	} {
		r.crypto = true
		list = append(list, r)
	}
	return list
}

func (s *Server) clientRoutes() []route {
	admins := members("Client Admins")
	const clients, tokens, profiles = "/client-management/clients", "/client-management/regtokens", "/client-management/profiles"
	return []route{
		on("GET", clients, 200, admins, s.listClients),
		on("POST", clients, 201, nil, s.registerClient),
		on("GET", clients+"/{client}", 200, anyone, s.getClient),
		on("DELETE", clients+"/{client}", 204, admins, s.deleteClient),
		on("POST", clients+"/{client}/renew", 200, anyone, s.renewClient),
		on("POST", clients+"/{client}/revoke", 200, admins, s.revokeClient),
		on("GET", tokens, 200, admins, s.listRegTokens),
		on("POST", tokens, 201, admins, s.createRegToken),
		on("GET", tokens+"/{token}", 200, admins, s.getRegToken),
		on("PATCH", tokens+"/{token}", 200, admins, s.patchRegToken),
		on("DELETE", tokens+"/{token}", 204, admins, s.deleteRegToken),
		on("GET", profiles, 200, admins, s.listProfiles),
		on("POST", profiles, 201, admins, s.createProfile),
		on("GET", profiles+"/{profile}", 200, admins, s.getProfile),
		on("PATCH", profiles+"/{profile}", 200, admins, s.patchProfile),
		on("DELETE", profiles+"/{profile}", 204, admins, s.deleteProfile),
	}
}

func (s *Server) systemRoutes() []route {
	return []route{
		on("GET", "/configs/properties", 200, anyone, s.listProperties),
		on("GET", "/configs/properties/{property}", 200, anyone, s.getProperty),
		on("PATCH", "/configs/properties/{property}", 200, members(), s.patchProperty),
		on("POST", "/configs/properties/{property}/reset", 200, members(), s.resetProperty),
		on("GET", "/configs/interfaces", 200, members(), s.listInterfaces),
		on("GET", "/configs/interfaces/{interface}", 200, members(), s.getInterface),
		on("PATCH", "/configs/interfaces/{interface}", 200, members(), s.patchInterface),
		on("GET", "/domains", 200, members(), s.listDomains),
		on("POST", "/domains", 201, members(), s.createDomain),
		on("GET", "/domains/{domain}", 200, members(), s.getDomain),
		on("DELETE", "/domains/{domain}", 204, members(), s.deleteDomain),
		on("GET", "/system/info", 200, anyone, s.systemInfo),
	}
}
