package worker

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"fmt"

	"github.com/miekg/pkcs11"

	"github.com/signet-agent/signet/hsm/wire"
)

// storeCertificate puts a certificate beside its key. One stored before goes
// only after the new one is there.
func (m *module) storeCertificate(req wire.Certificate) error {
	id, err := hex.DecodeString(req.ID)
	if err != nil || len(id) == 0 || len(req.DER) == 0 {
		return &wire.Error{Name: wire.BadRequest, Text: fmt.Sprintf("store certificate of key %q", req.ID)}
	}
	cert, err := x509.ParseCertificate(req.DER)
	if err != nil {
		return &wire.Error{Name: wire.BadRequest, Text: "store certificate: " + err.Error()}
	}
	attrs, err := certificateAttributes(id, req.Label, cert)
	if err != nil {
		return &wire.Error{Name: wire.BadRequest, Text: "store certificate: " + err.Error()}
	}
	if err := m.writable(); err != nil {
		return wireError("store certificate", err)
	}
	old, err := m.search(pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_CERTIFICATE), pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	if err != nil {
		return wireError("store certificate", err)
	}
	there, worn := false, []pkcs11.ObjectHandle(nil)
	for _, h := range old {
		v, err := m.attribute(h, pkcs11.CKA_VALUE)
		switch {
		case err != nil || !certifies(v, cert.RawSubjectPublicKeyInfo): // not ours, which are for the key
		case !there && bytes.Equal(v, req.DER):
			there = true
		default:
			worn = append(worn, h)
		}
	}
	if !there {
		if _, err := m.ctx.CreateObject(m.admin, attrs); err != nil {
			return wireError("store certificate", err)
		}
	}
	for _, h := range worn {
		if err := m.ctx.DestroyObject(m.admin, h); err != nil {
			return wireError("remove the old certificate", err)
		}
	}
	return nil
}

// certificateAttributes describe a certificate the way other programs look for
// it: with the ID and label of its key, its subject, issuer and serial number.
func certificateAttributes(id []byte, label string, cert *x509.Certificate) ([]*pkcs11.Attribute, error) {
	serial, err := asn1.Marshal(cert.SerialNumber)
	if err != nil {
		return nil, err
	}
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_CERTIFICATE),
		pkcs11.NewAttribute(pkcs11.CKA_CERTIFICATE_TYPE, pkcs11.CKC_X_509),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false),
		pkcs11.NewAttribute(pkcs11.CKA_ID, id),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_SUBJECT, cert.RawSubject),
		pkcs11.NewAttribute(pkcs11.CKA_ISSUER, cert.RawIssuer),
		pkcs11.NewAttribute(pkcs11.CKA_SERIAL_NUMBER, serial),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE, cert.Raw),
	}, nil
}

// certifies reports whether a certificate is for this public key.
func certifies(der, spki []byte) bool {
	cert, err := x509.ParseCertificate(der)
	return err == nil && bytes.Equal(cert.RawSubjectPublicKeyInfo, spki)
}
