package upstreamtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// Control is the handler by which an operator rehearses an outage, to be served
// on a Unix socket that only the operator can reach:
//
//	GET    /clock         {"now": "...", "offset": "0s"}
//	PUT    /clock         {"now": T} or {"offset": D} or {"advance": D}
//	GET    /faults        the faults that are on
//	POST   /faults        one more Fault; answers it with its id
//	PUT    /faults        these and no others
//	DELETE /faults        none; DELETE /faults/{id}: that one
//	GET    /log           the last calls; DELETE /log forgets them
//
// A simulator may add routes of its own to it.
func (b *Bench) Control() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /clock", func(w http.ResponseWriter, _ *http.Request) { Reply(w, b.clock()) })
	mux.HandleFunc("PUT /clock", b.putClock)
	mux.HandleFunc("GET /faults", func(w http.ResponseWriter, _ *http.Request) { Reply(w, b.Faults.List()) })
	mux.HandleFunc("POST /faults", b.postFault)
	mux.HandleFunc("PUT /faults", func(w http.ResponseWriter, r *http.Request) {
		var faults []Fault
		if !Decode(w, r, &faults) {
			return
		}
		if err := b.Faults.replace(faults); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		Reply(w, b.Faults.List())
	})
	mux.HandleFunc("DELETE /faults", func(w http.ResponseWriter, _ *http.Request) {
		b.Faults.Clear()
		Reply(w, b.Faults.List())
	})
	mux.HandleFunc("DELETE /faults/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
		if err != nil || !b.Faults.Remove(id) {
			http.Error(w, "fault "+strconv.Quote(r.PathValue("id"))+": not on", http.StatusNotFound)
			return
		}
		Reply(w, b.Faults.List())
	})
	mux.HandleFunc("GET /log", func(w http.ResponseWriter, _ *http.Request) { Reply(w, b.Log.Entries()) })
	mux.HandleFunc("DELETE /log", func(w http.ResponseWriter, _ *http.Request) {
		b.Log.Clear()
		Reply(w, b.Log.Entries())
	})
	return mux
}

type clockState struct {
	Now    time.Time `json:"now"`
	Offset Duration  `json:"offset"`
}

func (b *Bench) clock() clockState {
	return clockState{b.Clock.Now().UTC(), Duration(b.Clock.Offset())}
}

func (b *Bench) putClock(w http.ResponseWriter, r *http.Request) {
	var to struct {
		Now     *time.Time `json:"now"`
		Offset  *Duration  `json:"offset"`
		Advance *Duration  `json:"advance"`
	}
	if !Decode(w, r, &to) {
		return
	}
	switch {
	case to.Now != nil && to.Offset == nil && to.Advance == nil:
		b.Clock.Set(*to.Now)
	case to.Offset != nil && to.Now == nil && to.Advance == nil:
		b.Clock.SetOffset(time.Duration(*to.Offset))
	case to.Advance != nil && to.Now == nil && to.Offset == nil:
		b.Clock.Advance(time.Duration(*to.Advance))
	default:
		http.Error(w, "clock: want one of now, offset and advance", http.StatusBadRequest)
		return
	}
	Reply(w, b.clock())
}

func (b *Bench) postFault(w http.ResponseWriter, r *http.Request) {
	var fault Fault
	if !Decode(w, r, &fault) {
		return
	}
	if err := fault.check(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fault.ID = b.Faults.Add(fault)
	Reply(w, fault)
}

// Reply answers v as JSON on the control socket.
func Reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the caller has gone; no one is left to tell
}

// Decode reads the JSON body of a call on the control socket into v. If it
// cannot, it answers what is wrong and reports false.
func Decode(w http.ResponseWriter, r *http.Request, v any) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil && d.Decode(&struct{}{}) != io.EOF {
		err = fmt.Errorf("more than one JSON value")
	}
	if err != nil {
		http.Error(w, "body: "+err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}
