package nanomdmtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"
)

// userIDAttribute is the subject attribute that holds a push certificate's
// topic (RFC 4519, section 2.39).
var userIDAttribute = asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}

// authority is the certificate authority that NanoMDM trusts for identities.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

// identity is a certificate with its key.
type identity struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority() (*authority, error) {
	template := certificateTemplate(pkix.Name{CommonName: "nanomdmtest authority"})
	template.IsCA = true
	template.KeyUsage = x509.KeyUsageCertSign

	issued, err := issue(template, nil)
	if err != nil {
		return nil, err
	}

	return &authority{
		certificate: issued.certificate,
		key:         issued.key,
		pem:         pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issued.certificate.Raw}),
	}, nil
}

// identity issues the identity certificate of a device.
func (a *authority) identity(commonName string) (*identity, error) {
	template := certificateTemplate(pkix.Name{CommonName: commonName})
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}

	return issue(template, a)
}

// pushCertificate issues a push certificate for the topic. It returns the
// certificate and its key in PEM.
func (a *authority) pushCertificate(topic string) (string, error) {
	template := certificateTemplate(pkix.Name{
		CommonName: "APSP:" + topic,
		ExtraNames: []pkix.AttributeTypeAndValue{{Type: userIDAttribute, Value: topic}},
	})
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}

	issued, err := issue(template, a)
	if err != nil {
		return "", err
	}

	key, err := x509.MarshalPKCS8PrivateKey(issued.key)
	if err != nil {
		return "", fmt.Errorf("encoding key: %w", err)
	}

	certificatePEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issued.certificate.Raw})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})

	return string(certificatePEM) + string(keyPEM), nil
}

func certificateTemplate(subject pkix.Name) *x509.Certificate {
	now := time.Now()

	return &x509.Certificate{
		Subject:               subject,
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(24 * time.Hour),
		BasicConstraintsValid: true,
	}
}

// issue makes a key and a certificate for it, signed by the authority, or by
// itself where that is nil.
func issue(template *x509.Certificate, parent *authority) (*identity, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generating key: %w", err)
	}

	template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("generating serial number: %w", err)
	}

	signer, signerKey := template, key
	if parent != nil {
		signer, signerKey = parent.certificate, parent.key
	}

	encoded, err := x509.CreateCertificate(rand.Reader, template, signer, &key.PublicKey, signerKey)
	if err != nil {
		return nil, fmt.Errorf("creating certificate: %w", err)
	}

	certificate, err := x509.ParseCertificate(encoded)
	if err != nil {
		return nil, fmt.Errorf("parsing certificate: %w", err)
	}

	return &identity{certificate: certificate, key: key}, nil
}
