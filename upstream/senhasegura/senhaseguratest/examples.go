package senhaseguratest

import (
	"encoding/json"
	"time"
)

// Examples is a vault with the items that the product's manual prints:
// credential 5 (robot-test-5), information 20 (INFOID5) and application 5
// (postman), all for the one authorization.
func Examples(clientID, clientSecret string) Vault {
	return Vault{
		Authorizations: []*Authorization{{
			ID: 6, Client: "postman", ClientID: clientID, ClientSecret: clientSecret,
			Resources: []Resource{PAM, DSM},
		}},
		Credentials: []*Credential{{
			ID: "5", Identifier: "robot-test-5", Username: "credential_5", Password: "secret@2504",
			Hostname: "destktop-91.com", IP: "172.10.10.90", Port: "22",
			Additional: "CREDADD01", Model: "Ubuntu",
			Expires: time.Date(2021, 1, 16, 17, 31, 39, 0, time.UTC),
		}},
		Infos: []*Info{{ID: "20", Tag: "INFOID5", Type: "Access credential", Content: "INFOCONTENTNDIGH"}},
		Applications: []*Application{{
			ID: "5", ClientID: clientID, Name: "postman", Tags: []string{""}, System: "back", Environment: "test",
			Secrets: []AppSecret{{
				ID: "106", Name: "application5", Identity: "application5", Engine: "Kubernetes",
				Data: json.RawMessage(`[
					{"hostname": "application5_v_test", "username": "ADMIN_V_USR", "password": "ADMIN_V_PW", "additional_information": "ADMIN_V_SCHEMA"},
					{"access_key_id": "LKU5YC6QWAT487S4KEK", "secret_access_key": "sack10821du07f9sacfsdaasdf", "TTL": null},
					{"my_key_name": "my_key_value", "my_key_name_2": "my_key_value_2"}
				]`),
			}},
		}},
	}
}
