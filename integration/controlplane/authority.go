//go:build linux

package controlplane

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"time"
)

// authority issues the certificates of one control plane. Its key exists only
// in memory.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// pair is a certificate with its key, in PEM.
type pair struct{ certificate, key []byte }

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make certificate authority: %w", err)
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "nfproxy test authority"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	certificate, err := sign(template, template, key, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate authority: %w", err)
	}
	return &authority{certificate, key}, nil
}

// client issues a certificate by which the API server authenticates a user. It is valid until a time, or for 12 hours if that is
// zero.
func (a *authority) client(until time.Time, user string, groups ...string) (pair, error) {
	return a.issue(&x509.Certificate{
		NotAfter:    until,
		Subject:     pkix.Name{CommonName: user, Organization: groups},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// server issues a certificate for a server at these names and addresses. It is valid from a time on, or already if that is zero.
func (a *authority) server(from time.Time, names []string, addrs []netip.Addr) (pair, error) {
	template := &x509.Certificate{
		NotBefore:   from,
		Subject:     pkix.Name{CommonName: names[0]},
		DNSNames:    names,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, addr := range addrs {
		template.IPAddresses = append(template.IPAddresses, net.IP(addr.AsSlice()))
	}
	return a.issue(template)
}

// issue completes and signs the certificate of a new key.
func (a *authority) issue(template *x509.Certificate) (pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return pair{}, fmt.Errorf("issue certificate of %s: %w", template.Subject, err)
	}
	certificate, err := sign(template, a.certificate, key, a.key)
	if err != nil {
		return pair{}, fmt.Errorf("issue certificate of %s: %w", template.Subject, err)
	}
	private, err := keyPEM(key)
	return pair{certificatePEM(certificate), private}, err
}

// sign completes the template and signs it. Without other times in the
// template the certificate is valid for 12 hours before and after now.
func sign(template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	if template.NotBefore.IsZero() {
		template.NotBefore = time.Now().Add(-12 * time.Hour)
	}
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(12 * time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// NewServer returns the certificate of a server at addrs, valid from a time on,
// and in PEM the certificate of the new authority that issued it.
func NewServer(from time.Time, addrs ...netip.Addr) (authority []byte, server tls.Certificate, err error) {
	a, err := newAuthority()
	if err != nil {
		return nil, server, err
	}
	p, err := a.server(from, []string{"kubernetes"}, addrs)
	if err != nil {
		return nil, server, err
	}
	server, err = tls.X509KeyPair(p.certificate, p.key)
	return certificatePEM(a.certificate), server, err
}

func certificatePEM(certificate *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}
