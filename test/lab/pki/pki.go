// Package pki makes the certificates, keys and kubeconfigs of a lab.
// They are valid for a year and never leave the lab's directory.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"sigs.k8s.io/yaml"
)

// CA is a certificate authority kept in a directory as ca.crt and ca.key.
type CA struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// Leaf is a certificate with its key, PEM encoded.
type Leaf struct{ Cert, Key []byte }

// Subject says who a certificate is for: a client (Name, Groups) and, with
// Names or Addrs, a server too.
type Subject struct {
	Name   string
	Groups []string
	Names  []string
	Addrs  []netip.Addr
}

// Create makes an authority in dir, and there too sa.key and sa.pub for signing service account tokens.
func Create(dir string) (*CA, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make certificate authority: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make certificate authority: %w", err)
	}
	tmpl := template("manx-lab")
	tmpl.IsCA, tmpl.BasicConstraintsValid = true, true
	tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make certificate authority: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	sa, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make service account key: %w", err)
	}
	saKey, err := encodeKey(sa)
	if err != nil {
		return nil, err
	}
	saPub, err := x509.MarshalPKIXPublicKey(sa.Public())
	if err != nil {
		return nil, fmt.Errorf("encode service account key: %w", err)
	}
	files := map[string][]byte{
		"ca.crt": encode("CERTIFICATE", der), "ca.key": keyPEM,
		"sa.key": saKey, "sa.pub": encode("PUBLIC KEY", saPub),
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return nil, fmt.Errorf("make certificate authority: %w", err)
		}
	}
	return Open(dir)
}

// Open reads the authority that Create made in dir.
func Open(dir string) (*CA, error) {
	certPEM, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("open certificate authority: %w", err)
	}
	keyPEM, err := os.ReadFile(filepath.Join(dir, "ca.key"))
	if err != nil {
		return nil, fmt.Errorf("open certificate authority: %w", err)
	}
	certBlock, _ := pem.Decode(certPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if certBlock == nil || keyBlock == nil {
		return nil, fmt.Errorf("open certificate authority: no PEM data in %s", dir)
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("open certificate authority: %w", err)
	}
	key, err := x509.ParseECPrivateKey(keyBlock.Bytes)
	if err != nil {
		return nil, fmt.Errorf("open certificate authority: %w", err)
	}
	return &CA{dir: dir, cert: cert, key: key, pem: certPEM}, nil
}

// PEM is the authority's certificate.
func (ca *CA) PEM() []byte { return ca.pem }

// Issue makes a certificate for s.
func (ca *CA) Issue(s Subject) (Leaf, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Leaf{}, fmt.Errorf("issue certificate for %s: %w", s.Name, err)
	}
	tmpl := template(s.Name)
	tmpl.Subject.Organization = s.Groups
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(s.Names)+len(s.Addrs) > 0 {
		tmpl.ExtKeyUsage = append(tmpl.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	tmpl.DNSNames = s.Names
	for _, a := range s.Addrs {
		tmpl.IPAddresses = append(tmpl.IPAddresses, net.IP(a.AsSlice()))
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	if err != nil {
		return Leaf{}, fmt.Errorf("issue certificate for %s: %w", s.Name, err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return Leaf{}, err
	}
	return Leaf{Cert: encode("CERTIFICATE", der), Key: keyPEM}, nil
}

// Save writes the certificate and key to path.crt and path.key.
func (l Leaf) Save(path string) error {
	for ext, content := range map[string][]byte{".crt": l.Cert, ".key": l.Key} {
		if err := os.WriteFile(path+ext, content, 0o600); err != nil {
			return fmt.Errorf("save certificate: %w", err)
		}
	}
	return nil
}

// WriteKubeconfig issues a client certificate for s and writes a kubeconfig with it to path.
func (ca *CA) WriteKubeconfig(path, server string, s Subject) error {
	leaf, err := ca.Issue(s)
	if err != nil {
		return err
	}
	type named = map[string]any
	b, err := yaml.Marshal(named{
		"apiVersion": "v1", "kind": "Config", "current-context": "lab",
		"clusters": []named{{"name": "lab", "cluster": named{"server": server, "certificate-authority-data": ca.pem}}},
		"users":    []named{{"name": s.Name, "user": named{"client-certificate-data": leaf.Cert, "client-key-data": leaf.Key}}},
		"contexts": []named{{"name": "lab", "context": named{"cluster": "lab", "user": s.Name}}},
	})
	if err != nil {
		return fmt.Errorf("encode kubeconfig of %s: %w", s.Name, err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		return fmt.Errorf("write kubeconfig of %s: %w", s.Name, err)
	}
	return nil
}

func template(name string) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		panic(err) // crypto/rand never fails.
	}
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.AddDate(1, 0, 0),
	}
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return encode("EC PRIVATE KEY", der), nil
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
