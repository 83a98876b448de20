package ciphertrusttest

import "encoding/json"

// A refusal is a failed call.
type refusal struct {
	status  int
	code    int
	desc    string
	message string // "" leaves it out
}

// body is the refusal on the wire.
func (no *refusal) body(requestID string) string {
	b, err := json.Marshal(struct {
		Code      int    `json:"code"`
		CodeDesc  string `json:"codeDesc"`
		Message   string `json:"message,omitempty"`
		RequestID string `json:"requestID"`
	}{no.code, no.desc, no.message, requestID})
	if err != nil {
		panic(err) // text and numbers
	}
	return string(b)
}

// invalid is a bad value of a parameter.
func invalid(why string) *refusal { return &refusal{400, 9, "NCERRInvalidParamValue: " + why, ""} }

// malformed is a request that cannot be read.
func malformed(why string) *refusal { return &refusal{400, 15, "NCERRBadRequest: " + why, ""} }

// cryptoFailed is a failed operation with a key.
func cryptoFailed(why string) *refusal {
	return &refusal{400, 106, "NCERRCryptoOperationFailed: " + why, ""}
}

// unauthorized is a token that is missing, over, or none of ours.
func unauthorized(why string) *refusal {
	if why == "" {
		why = "Invalid token"
	}
	return &refusal{401, 1, "NCERRUnauthorized: " + why, ""}
}

// invalidClient is a certificate that logs nobody in.
func invalidClient() *refusal { return &refusal{401, 5, "NCERRUnauthorizedAccess", "Invalid Client"} }

// wrongPassword does not tell which of user and password is wrong.
func (s *Server) wrongPassword() *refusal {
	if s.cfg.Modern {
		return unauthorized("Wrong username or password.")
	}
	return &refusal{401, 5, "NCERRUnauthorizedAccess", "Wrong username or password."}
}

func forbidden() *refusal { return &refusal{403, 6, "NCERRForbidden: Insufficient permissions", ""} }

// protected is something that nobody may do to this object.
func protected(why string) *refusal { return &refusal{403, 6, "NCERRForbidden: " + why, ""} }

func notFound() *refusal { return &refusal{404, 16, "NCERRResourceNotFound: Resource not found", ""} }

func notAllowed() *refusal {
	return &refusal{405, 7, "NCERRMethodNotAllowed: Method not allowed", ""}
}

func conflict(why string) *refusal { return &refusal{409, 11, "NCERRConflict: " + why, ""} }

func keyExists() *refusal {
	return &refusal{409, 11, "NCERRKeyAlreadyExists: Key already exists", ""}
}

func internal() *refusal { return &refusal{500, 2, "NCERRInternal: Internal server error", ""} }
