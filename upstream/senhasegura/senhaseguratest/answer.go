package senhaseguratest

import (
	"encoding/json"
	"net/http"
	"strconv"
)

// An answer is what a call is answered, before it is put into an envelope.
type answer struct {
	http int
	// bare, if not nil, is the whole body: there is no envelope.
	bare any
	// message is the envelope's sentence.
	message string
	// code is the number of the exception; 0 if there is no exception.
	code int
	// errorCode is what release 3.32 adds to errors.
	errorCode int
	// name and item are what is answered beside the envelope.
	name string
	item any
}

// problem is the Error column of the API log.
func (a answer) problem() string {
	switch {
	case a.http < 400:
		return ""
	case a.message != "":
		return a.message
	}
	return http.StatusText(a.http)
}

// success answers an item under a name.
func success(message, name string, item any) answer {
	return answer{http: http.StatusOK, message: message, name: name, item: item}
}

// failure answers an error. With a code there is an exception, and the code
// goes in front of the message.
func failure(status, code int, message string) answer {
	if code != 0 {
		message = strconv.Itoa(code) + ": " + message
	}
	return answer{http: status, code: code, message: message, errorCode: 1}
}

// refusal is a failure of the module PAM.
func refusal(code int, message string) answer { return failure(http.StatusBadRequest, code, message) }

func unauthorized(message string) answer { return failure(http.StatusUnauthorized, 0, message) }

// gateway is what stands in front of the product answers to a call that it does
// not know where to send.
func gateway() answer {
	return answer{http: http.StatusNotFound, bare: map[string]string{"message": "no Route matched with those values"}}
}

func oauthError(status int, name, message string) answer {
	return answer{http: status, bare: map[string]string{"error": name, "message": message}, message: message}
}

// An oldResponse is the envelope of release 3.21.
type oldResponse struct {
	Status   int    `json:"status"`
	Mensagem string `json:"mensagem"`
	Erro     bool   `json:"erro"`
	Message  string `json:"message"`
	Error    bool   `json:"error"`
}

// A newResponse is that of release 3.32.
type newResponse struct {
	Status    int    `json:"status"`
	Message   string `json:"message"`
	Error     bool   `json:"error"`
	ErrorCode int    `json:"error_code"`
	Detail    string `json:"detail"`
	Mensagem  string `json:"mensagem"`
	Erro      bool   `json:"erro"`
	CodErro   int    `json:"cod_erro"`
}

type exception struct {
	Code    int     `json:"code"`
	Message string  `json:"message"`
	Detail  *string `json:"detail"`
}

// write puts the answer into its envelope and sends it.
func (a answer) write(w http.ResponseWriter, modern bool) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(a.http)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if a.bare != nil {
		_ = enc.Encode(a.bare) // the caller has gone; no one is left to tell
		return
	}
	failed := a.http >= 400
	out := map[string]any{"response": oldResponse{a.http, a.message, failed, a.message, failed}}
	if modern {
		out["code"] = a.http
		out["response"] = newResponse{a.http, a.message, failed, a.errorCode, "", a.message, failed, a.errorCode}
	}
	if a.code != 0 {
		out["exception"] = exception{Code: a.code, Message: a.message}
	}
	if a.name != "" {
		out[a.name] = a.item
	}
	_ = enc.Encode(out)
}
