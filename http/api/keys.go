package api

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"
)

// role is what a key is good for.
type role string

const (
	roleRead  role = "read"
	roleWrite role = "write"
)

// ownName is the name of the key that is not in a file.
const ownName = "api"

// maxKeyLength bounds what is hashed for whoever asks.
const maxKeyLength = 1024

// maxKeys bounds what each request is compared with.
const maxKeys = 1000

// digestPrefix marks a key of which only the digest is told.
const digestPrefix = "sha256:"

var keyName = regexp.MustCompile(`^[A-Za-z0-9._@-]{1,64}$`)

// apiKey is a key of which only the digest is known: digests are of one length, so that the time of a comparison tells
// nothing of a key's.
type apiKey struct {
	name   string
	role   role
	digest [sha256.Size]byte
	line   int // in the file; 0: it is not from there
}

// Keyring holds the API keys: one of its own, and those of a file. It is safe for concurrent use.
type Keyring struct {
	own     []apiKey
	current atomic.Pointer[[]apiKey]
}

// NewKeyring returns a keyring with one key, named "api", that may do everything, or with none if the key is empty.
func NewKeyring(key string) (*Keyring, error) {
	k := &Keyring{}
	if len(key) > maxKeyLength {
		return nil, fmt.Errorf("the API key is longer than %d octets", maxKeyLength)
	}
	if key != "" {
		k.own = []apiKey{{name: ownName, role: roleWrite, digest: sha256.Sum256([]byte(key))}}
	}
	k.current.Store(&k.own)
	return k, nil
}

// Load takes the keys of a file, in place of those that it took before. When there is an error, those stay. The error
// says which line is wrong, and nothing of what is there: words that were mixed up may be keys.
func (k *Keyring) Load(file []byte) error {
	keys := k.own
	number := 0
	for line := range bytes.Lines(file) {
		number++
		words := strings.Fields(string(line))
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		key, err := parseKey(words)
		if err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		key.line = number
		for _, other := range keys {
			if key.name == other.name {
				return fmt.Errorf("line %d: the name is that of %s", number, other.place())
			}
			if key.digest == other.digest {
				return fmt.Errorf("line %d: the key is that of %s", number, other.place())
			}
		}
		keys = append(keys[:len(keys):len(keys)], key)
		if len(keys) > maxKeys {
			return fmt.Errorf("line %d: there are more than %d keys", number, maxKeys)
		}
	}
	if len(keys) == len(k.own) {
		return errors.New("there is no key in it")
	}
	k.current.Store(&keys)
	return nil
}

// place tells where a key is from.
func (k *apiKey) place() string {
	if k.line == 0 {
		return "-api"
	}
	return fmt.Sprintf("line %d", k.line)
}

// parseKey reads the words of a line: NAME ROLE KEY.
func parseKey(words []string) (apiKey, error) {
	if len(words) != 3 {
		return apiKey{}, fmt.Errorf("it has %d words instead of three: NAME ROLE KEY", len(words))
	}
	key := apiKey{name: words[0], role: role(words[1])}
	if !keyName.MatchString(key.name) {
		return apiKey{}, errors.New("the name is not of 1 to 64 letters, digits and .-_@")
	}
	if key.role != roleRead && key.role != roleWrite {
		return apiKey{}, errors.New("the role is neither read nor write")
	}
	digest, digested := strings.CutPrefix(words[2], digestPrefix)
	if !digested {
		if len(words[2]) > maxKeyLength {
			return apiKey{}, fmt.Errorf("the key is longer than %d octets", maxKeyLength)
		}
		key.digest = sha256.Sum256([]byte(words[2]))
		return key, nil
	}
	raw, err := hex.DecodeString(digest)
	if err != nil || len(raw) != sha256.Size {
		return apiKey{}, fmt.Errorf("after %s there are not %d hexadecimal digits", digestPrefix, 2*sha256.Size)
	}
	key.digest = [sha256.Size]byte(raw)
	return key, nil
}

// find returns who has a key, or nil. It takes as long for one key as for another, and for a wrong one.
func (k *Keyring) find(presented string) *apiKey {
	if presented == "" || len(presented) > maxKeyLength {
		return nil
	}
	digest := sha256.Sum256([]byte(presented))
	keys := *k.current.Load()
	found := -1
	for i := range keys {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(digest[:], keys[i].digest[:]), i, found)
	}
	if found < 0 {
		return nil
	}
	return &keys[found]
}
