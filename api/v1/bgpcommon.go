package v1

// ASNumber is a four-byte autonomous system number (RFC 6793). The schema's
// format is int64 because Kubernetes has no unsigned one.
//
// +kubebuilder:validation:Type=integer
// +kubebuilder:validation:Format=int64
// +kubebuilder:validation:Minimum=0
// +kubebuilder:validation:Maximum=4294967295
type ASNumber uint32

// BGPPassword names the secret that holds a session's TCP-MD5 key (RFC 2385).
type BGPPassword struct {
	// SecretKeyRef is a key of a secret in the agent's own namespace.
	// +optional
	SecretKeyRef *SecretKeySelector `json:"secretKeyRef,omitempty"`
}

// SecretKeySelector names one key of a secret.
//
// +structType=atomic
type SecretKeySelector struct {
	// +kubebuilder:default=""
	// +optional
	Name string `json:"name,omitempty"`
	Key  string `json:"key"`
	// Optional means that a missing secret or key is no error.
	// +optional
	Optional *bool `json:"optional,omitempty"`
}
