package ciphertrusttest

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des" //nolint:gosec // TDES is one of the product's choices
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
)

// madeCSR is a CSR and its key.
type madeCSR struct {
	CSR string
	key crypto.Signer
}

// newCSR makes a CSR, for a key that it makes too unless there is one.
func newCSR(f subjectFields, algorithm string, size int, key crypto.Signer) (*madeCSR, *refusal) {
	template, no := f.request()
	if no != nil {
		return nil, no
	}
	if key == nil {
		if key, no = newSigner(algorithm, size); no != nil {
			return nil, no
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, cryptoFailed("the key cannot sign the request")
	}
	return &madeCSR{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), key}, nil
}

// makeCSR is POST /ca/csr. Nothing of it is kept.
func (s *Server) makeCSR(c *call) (any, *refusal) {
	var in struct {
		subjectFields
		Algorithm      string `json:"algorithm"`
		Size           int    `json:"size"`
		Name           string `json:"name"`
		EncryptionAlgo string `json:"encryptionAlgo"`
		Password       string `json:"password"`
		PrivateKey     string `json:"privateKeyBytes"`
	}
	if no := c.read(s, &in); no != nil {
		return nil, no
	}
	var key crypto.Signer
	if in.PrivateKey != "" {
		var no *refusal
		if key, no = parseKey(in.PrivateKey); no != nil {
			return nil, no
		}
	}
	made, no := newCSR(in.subjectFields, in.Algorithm, in.Size, key)
	if no != nil {
		return nil, no
	}
	text, no := keyPEM(made.key, in.EncryptionAlgo, in.Password)
	if no != nil {
		return nil, no
	}
	return map[string]string{"csr": made.CSR, "key": text}, nil
}

// parseKey reads a private key in PEM.
func parseKey(text string) (crypto.Signer, *refusal) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, cryptoFailed("privateKeyBytes: not a PEM")
	}
	var key any
	var err error
	switch block.Type {
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, cryptoFailed("privateKeyBytes: cannot be read")
	}
	return signer, nil
}

// The object identifiers of PKCS #5.
var (
	oidPBES2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}
	oidPBKDF2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 12}
	oidSHA256 = asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 9}
)

// encryptions are the ways to encrypt a key: the cipher and its length.
var encryptions = map[string]struct {
	oid    asn1.ObjectIdentifier
	length int
	block  func([]byte) (cipher.Block, error)
}{
	"AES256": {asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 42}, 32, aes.NewCipher},
	"AES192": {asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 22}, 24, aes.NewCipher},
	"AES128": {asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 1, 2}, 16, aes.NewCipher},
	"TDES":   {asn1.ObjectIdentifier{1, 2, 840, 113549, 3, 7}, 24, des.NewTripleDESCipher},
}

// keyPEM writes a private key, encrypted if there is a password.
func keyPEM(key crypto.Signer, algorithm, password string) (string, *refusal) {
	der, no := marshalKey(key)
	if no != nil {
		return "", no
	}
	if password == "" {
		if algorithm != "" {
			return "", invalid("password is required with encryptionAlgo")
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), nil
	}
	if algorithm == "" {
		algorithm = "AES256"
	}
	der, no = encryptKey(der, algorithm, password)
	if no != nil {
		return "", no
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der})), nil
}

// encryptKey encrypts a PKCS #8 key by PBES2.
func encryptKey(der []byte, algorithm, password string) ([]byte, *refusal) {
	e, ok := encryptions[algorithm]
	if !ok {
		return nil, invalid("encryptionAlgo: want AES256, AES192, AES128 or TDES")
	}
	const rounds = 10_000
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	k, err := pbkdf2.Key(sha256.New, password, salt, rounds, e.length)
	if err != nil {
		return nil, internal()
	}
	block, err := e.block(k)
	if err != nil {
		return nil, internal()
	}
	iv := make([]byte, block.BlockSize())
	_, _ = rand.Read(iv) // never fails
	pad := block.BlockSize() - len(der)%block.BlockSize()
	for range pad {
		der = append(der, byte(pad))
	}
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(der, der)

	algo := func(oid asn1.ObjectIdentifier, params any) pkix.AlgorithmIdentifier {
		raw, err := asn1.Marshal(params)
		if err != nil {
			panic(err) // bytes and numbers
		}
		return pkix.AlgorithmIdentifier{Algorithm: oid, Parameters: asn1.RawValue{FullBytes: raw}}
	}
	kdf := algo(oidPBKDF2, struct {
		Salt   []byte
		Rounds int
		PRF    pkix.AlgorithmIdentifier
	}{salt, rounds, pkix.AlgorithmIdentifier{Algorithm: oidSHA256, Parameters: asn1.NullRawValue}})
	out, err := asn1.Marshal(struct {
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte
	}{algo(oidPBES2, struct{ KDF, Cipher pkix.AlgorithmIdentifier }{kdf, algo(e.oid, iv)}), der})
	if err != nil {
		return nil, internal()
	}
	return out, nil
}
