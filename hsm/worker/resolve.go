package worker

import (
	"encoding/hex"

	"github.com/miekg/pkcs11"

	"github.com/signet-agent/signet/hsm/wire"
)

// maxSearches is how many keys are searched for by their ID in the life of the
// process. On many modules a search costs as much as there are objects on the
// token, so whoever wants more keys gets them by one pass over all.
const maxSearches = 4

// resolve finds the keys that are going to be used and remembers how. It reads
// nothing of them but what tells which they are: what type a key has is known to
// the ledger, and whether it is still the same shows when it signs.
func (m *module) resolve(req wire.Resolve) (*wire.Resolved, error) {
	if len(req.Keys) > maxSearches {
		m.searched = maxSearches
	}
	out := &wire.Resolved{}
	for _, k := range req.Keys {
		kind, ok := kinds[k.Type]
		id, err := hex.DecodeString(k.ID)
		if err != nil || len(id) == 0 || !ok {
			return nil, &wire.Error{Name: wire.BadRequest, Text: "resolve key " + k.ID}
		}
		objects, err := m.known(id, pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_SECRET_KEY)
		if err != nil {
			return nil, wireError("find key", err)
		}
		e := entry{kind: kind}
		for _, o := range objects {
			switch {
			case o.err != nil:
			case o.class == pkcs11.CKO_PRIVATE_KEY:
				e.private = o.handle
			case o.class == pkcs11.CKO_SECRET_KEY:
				e.secret = o.handle
			}
		}
		f := count(k.ID, objects)
		if f.Private+f.Secret == 0 {
			out.Missing = append(out.Missing, k.ID)
			continue
		}
		e.several = f.Private+f.Secret > 1
		m.learn(id, &e)
	}
	return out, nil
}

// known returns the objects with an ID that are of these classes, and perhaps
// others: the first few by a search each, all further ones from one pass.
func (m *module) known(id []byte, classes ...uint) ([]object, error) {
	if m.searched < maxSearches {
		m.searched++
		return m.carrying(id)
	}
	var all []object
	for _, class := range classes {
		if err := m.pass(class); err != nil {
			return nil, err
		}
		for _, h := range m.passed[class][string(id)] {
			all = append(all, object{handle: h, class: class, id: id})
		}
	}
	if len(all) == 0 {
		return m.carrying(id) // it may have come since
	}
	return all, nil
}

// carrying searches for the objects with an ID.
func (m *module) carrying(id []byte) ([]object, error) {
	handles, err := m.search(pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	if err != nil {
		return nil, err
	}
	objects := make([]object, len(handles))
	for i, h := range handles {
		objects[i] = m.identify(h)
		if err := beyond(objects[i].err); err != nil {
			return nil, err
		}
	}
	return objects, nil
}

// pass reads the IDs of all objects of a class, once in the life of the process.
// One that cannot be read has none.
func (m *module) pass(class uint) error {
	if m.passed[class] != nil {
		return nil
	}
	handles, err := m.search(pkcs11.NewAttribute(pkcs11.CKA_CLASS, class))
	if err != nil {
		return err
	}
	byID := map[string][]pkcs11.ObjectHandle{}
	for _, h := range handles {
		id, err := m.attribute(h, pkcs11.CKA_ID)
		if err := beyond(err); err != nil {
			return err
		}
		if err == nil && len(id) > 0 {
			byID[string(id)] = append(byID[string(id)], h)
		}
	}
	m.passed[class] = byID
	return nil
}
