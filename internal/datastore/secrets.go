package datastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/manx-cni/manx/bgp"
	"github.com/manx-cni/manx/internal/bgpconfig"
	"github.com/manx-cni/manx/internal/excerpt"
)

// SecretNamespace is where the Secrets are that BGPPeers and BGPConfigurations name.
const SecretNamespace = "kube-system"

// secretRole is the Role whose resourceNames let the agents read Secrets.
const secretRole = "manx-node-bgp-secrets"

// maxPassword is what the kernel takes of a TCP-MD5 key, in bytes: TCP_MD5SIG_MAXKEYLEN.
const maxPassword = 80

// secrets keeps the passwords of BGP. It watches the Secrets that are named, each by its
// name: the agent may read no other. A Secret is kept as the values of its keys, in
// memory alone.
type secrets struct {
	kube kubernetes.Interface
	log  *slog.Logger
	wake func() // a password may have changed

	mu      sync.Mutex
	keys    []bgpconfig.SecretKey // wanted
	watched map[string]*secret    // by name
	// passwords are those of keys; replaced, never changed, when one is another.
	passwords map[bgpconfig.SecretKey]bgpconfig.Password
}

// secret is a Secret that is watched.
type secret struct {
	stop context.CancelFunc
	done chan struct{}
	read bool // whether it was found or found missing, at least once
	data map[string][]byte
	err  error // why it cannot be read
}

func newSecrets(kube kubernetes.Interface, log *slog.Logger, wake func()) *secrets {
	return &secrets{kube: kube, log: log, wake: wake, watched: map[string]*secret{}}
}

// current are the passwords as they are known. The map must not be changed.
func (s *secrets) current() map[bgpconfig.SecretKey]bgpconfig.Password {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.passwords
}

// want watches the Secrets of keys, and no others, until ctx ends.
func (s *secrets) want(ctx context.Context, keys []bgpconfig.SecretKey) {
	s.mu.Lock()
	if slices.Equal(keys, s.keys) {
		s.mu.Unlock()
		return
	}
	s.keys = slices.Clone(keys)
	names := map[string]bool{}
	for _, k := range keys {
		names[k.Name] = true
		if s.watched[k.Name] == nil {
			s.watched[k.Name] = s.watch(ctx, k.Name)
		}
	}
	var ended []*secret
	for name, w := range s.watched {
		if !names[name] {
			ended = append(ended, w)
			delete(s.watched, name)
		}
	}
	changed := s.settle()
	s.mu.Unlock()
	for _, w := range ended {
		w.stop()
	}
	if changed {
		s.wake()
	}
}

// end ends all watches and returns when they have ended.
func (s *secrets) end() {
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.watched))
	s.mu.Unlock()
	for _, w := range all {
		w.stop()
		<-w.done
	}
}

// watch starts to watch the Secret of a name.
func (s *secrets) watch(ctx context.Context, name string) *secret {
	ctx, cancel := context.WithCancel(ctx)
	w := &secret{stop: cancel, done: make(chan struct{})}
	only := fields.OneTermEqualSelector("metadata.name", name).String()
	client := s.kube.CoreV1().Secrets(SecretNamespace)
	inf := cache.NewSharedInformer(cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = only
			return client.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = only
			return client.Watch(ctx, o)
		},
	}, s.kube), &corev1.Secret{}, 0)
	set := func(data map[string][]byte, err error) {
		s.mu.Lock()
		if s.watched[name] != nil && s.watched[name] != w {
			s.mu.Unlock()
			return
		}
		w.read, w.data, w.err = true, data, err
		changed := s.settle()
		s.mu.Unlock()
		if changed {
			s.wake()
		}
	}
	seen := func(o any) {
		if sec, ok := o.(*corev1.Secret); ok {
			set(sec.Data, nil)
		}
	}
	_, errHandler := inf.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: seen, UpdateFunc: func(_, o any) { seen(o) }, DeleteFunc: func(any) { set(nil, nil) },
	})
	errWatch := inf.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		// While the API server is away, what is known holds.
		if apierrors.IsForbidden(err) {
			set(nil, err)
		}
	})
	if err := errors.Join(errHandler, errWatch); err != nil {
		w.read, w.err = true, err
		close(w.done)
		return w
	}
	go func() {
		defer close(w.done)
		go func() {
			if cache.WaitForCacheSync(ctx.Done(), inf.HasSynced) && len(inf.GetStore().List()) == 0 {
				set(nil, nil) // there is none
			}
		}()
		inf.RunWithContext(ctx)
	}()
	return w
}

// settle computes the passwords again; it reports whether one is another. The caller holds
// the lock.
func (s *secrets) settle() (changed bool) {
	now := make(map[bgpconfig.SecretKey]bgpconfig.Password, len(s.keys))
	for _, k := range s.keys {
		now[k] = s.watched[k.Name].password(k)
	}
	if maps.Equal(now, s.passwords) {
		return false
	}
	for k, p := range now {
		if before := s.passwords[k]; p.Held != "" && p.Held != before.Held && s.watched[k.Name].read {
			s.log.Warn("BGP sessions stay down", "reason", p.Held)
		}
	}
	s.passwords = now
	return true
}

// password is one key's value, or why the sessions that need it must stay down: without
// it they would be open to everyone.
func (w *secret) password(k bgpconfig.SecretKey) bgpconfig.Password {
	where := "secret " + SecretNamespace + "/" + k.Name
	held := func(format string, args ...any) bgpconfig.Password {
		return bgpconfig.Password{Held: "password: " + where + fmt.Sprintf(format, args...)}
	}
	value, found := w.data[k.Key]
	switch {
	case !w.read:
		return held(" has not been read yet")
	case apierrors.IsForbidden(w.err):
		return held(" cannot be read: add its name to the resourceNames of Role %s in namespace %s", secretRole, SecretNamespace)
	case w.err != nil:
		return held(" cannot be read: %s", excerpt.Message(w.err.Error()))
	case w.data == nil:
		return held(" not found: create it, or correct secretKeyRef")
	case !found:
		return held(" has no key %s: add it, or correct secretKeyRef", excerpt.Value(k.Key))
	case len(value) == 0 || len(value) > maxPassword:
		return held(": key %s is %d bytes long, and TCP-MD5 takes 1 to %d: change the password", excerpt.Value(k.Key), len(value), maxPassword)
	}
	return bgpconfig.Password{Value: bgp.NewSecret(string(value))}
}
