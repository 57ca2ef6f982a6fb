package ddm

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// typeActivationSimple is the one type whose payload names other declarations
// without the schema saying so. Apple: declarations/activations/simple.yaml.
const typeActivationSimple = "com.apple.activation.simple"

// The keys of a declaration. Apple: declarations/declarationbase.yaml.
const (
	keyIdentifier  = "Identifier"
	keyType        = "Type"
	keyServerToken = "ServerToken"
	keyPayload     = "Payload"

	keyStandardConfigurations = "StandardConfigurations"
	keyPredicate              = "Predicate"
)

// Declaration is one piece of what a device should look like.
// Apple: declarations/declarationbase.yaml.
type Declaration struct {
	Identifier string
	Type       string
	// Class follows from Type.
	Class Class
	// Payload is the JSON object as text: insignificant white space is
	// dropped, everything else (the order of keys, number literals, escapes)
	// is exactly as given.
	Payload []byte
	// ServerToken identifies this version of the declaration. Storage sets it.
	ServerToken string
}

// ParseDeclaration reads a declaration from the JSON that an admin sent. It
// returns the declaration, without a ServerToken, and warnings about what works
// but is probably not meant. A ServerToken in data is ignored. Its error is an
// *InvalidError with everything that is wrong, each with the field.
func ParseDeclaration(data []byte) (*Declaration, []string, error) {
	var reader declarationReader
	if err := reader.read(data); err != nil {
		reader.problems.addError(err)
		return nil, nil, reader.problems.err()
	}
	reader.validate()
	if err := reader.problems.err(); err != nil {
		return nil, nil, err
	}
	return &reader.declaration, reader.warnings(), nil
}

// declarationReader gathers the parts of a declaration and what is wrong with
// them.
type declarationReader struct {
	scanner     *scanner
	declaration Declaration
	problems    problemList

	// The texts of known keys' values, nil where missing.
	identifier, declarationType, payload []byte

	unknown      []string
	unknownCount int
}

// read scans the whole text. Its error means that the text isn't a JSON object
// and nothing more can be said about it.
func (r *declarationReader) read(data []byte) error {
	s, err := newScanner(data)
	if err != nil {
		return err
	}
	s.repeated = func() {
		if r.problems.full() {
			// Spares making a path for each key of a large body.
			r.problems.omitted++
			return
		}
		r.problems.add(s.where(), "key appears twice")
	}
	r.scanner = s
	return s.document(r.member)
}

// member takes one top-level member.
func (r *declarationReader) member(key []byte) error {
	text, err := r.scanner.raw()
	if err != nil {
		return err
	}
	switch name := decodeString(key); name {
	case keyIdentifier:
		r.identifier = text
	case keyType:
		r.declarationType = text
	case keyPayload:
		r.payload = text
	case keyServerToken:
	default:
		r.unknownCount++
		if len(r.unknown) < maxProblems {
			r.unknown = append(r.unknown, name)
		}
	}
	return nil
}

// validate fills in the declaration, noting the problems.
func (r *declarationReader) validate() {
	if id, ok := r.stringField(keyIdentifier, r.identifier); ok {
		r.declaration.Identifier = id
		r.problems.addProblem(ValidateIdentifier(keyIdentifier, id))
		if id == ShardIdentifier {
			r.problems.add(keyIdentifier, "%s is reserved: the server makes this declaration itself", ShardIdentifier)
		}
	}
	if declarationType, ok := r.stringField(keyType, r.declarationType); ok {
		class, problem := validateType(keyType, declarationType)
		r.problems.addProblem(problem)
		r.declaration.Type, r.declaration.Class = declarationType, class
	}
	switch {
	case r.payload == nil:
		r.missing(keyPayload)
	case r.payload[0] != '{':
		r.problems.add(keyPayload, "must be an object, not %s", kindOf(r.payload[0]))
	default:
		r.declaration.Payload = bytes.Clone(r.payload)
		if r.declaration.Type == typeActivationSimple {
			standardConfigurations(r.payload, &r.problems)
		}
	}
}

// stringField returns the string that text stands for, or false with a problem
// noted.
func (r *declarationReader) stringField(key string, text []byte) (string, bool) {
	switch {
	case text == nil:
		r.missing(key)
	case text[0] != '"':
		r.problems.add(key, "must be a string, not %s", kindOf(text[0]))
	case hasLoneSurrogate(text):
		r.problems.add(key, "must not contain a lone surrogate")
	default:
		return decodeString(text), true
	}
	return "", false
}

// missing notes that a key is missing. A key in the wrong case is the usual
// reason, and hard to see.
func (r *declarationReader) missing(key string) {
	for _, name := range r.unknown {
		if strings.EqualFold(name, key) {
			r.problems.add(key, "is missing; %q was found, but keys are case-sensitive", name)
			return
		}
	}
	r.problems.add(key, "is missing")
}

// warnings returns the warnings about an accepted declaration.
func (r *declarationReader) warnings() []string {
	var warnings []string
	if size := len(r.declaration.Identifier); size > appleIdentifierOctets {
		warnings = append(warnings, fmt.Sprintf("Identifier: has %d octets, Apple allows %d", size, appleIdentifierOctets))
	}
	for _, name := range r.unknown {
		warnings = append(warnings, fmt.Sprintf("%s: unknown key, ignored", cutString(name, maxNameOctets)))
	}
	if omitted := r.unknownCount - len(r.unknown); omitted > 0 {
		warnings = append(warnings, fmt.Sprintf("and %d more unknown keys, ignored", omitted))
	}
	return warnings
}

// standardConfigurations returns the identifiers in the payload of an
// activation, in the order given, and notes what is wrong with them and with its
// predicate. The payload has been scanned before. Apple:
// declarations/activations/simple.yaml.
func standardConfigurations(payload []byte, problems *problemList) []string {
	const field = keyPayload + "." + keyStandardConfigurations
	var identifiers []string
	s := &scanner{data: payload}
	element := func(index int) error {
		elementField := fmt.Sprintf("%s[%d]", field, index)
		text, err := s.raw()
		switch {
		case err != nil:
			return err
		case text[0] != '"':
			problems.add(elementField, "must be a string, not %s", kindOf(text[0]))
		case hasLoneSurrogate(text):
			problems.add(elementField, "must not contain a lone surrogate")
		default:
			id := decodeString(text)
			problems.addProblem(ValidateIdentifier(elementField, id))
			identifiers = append(identifiers, id)
		}
		return nil
	}
	err := s.object(func(key []byte) error {
		switch decodeString(key) {
		case keyPredicate:
			return predicate(s, problems)
		case keyStandardConfigurations:
		default:
			return s.skip()
		}
		if s.peek() != '[' {
			problems.add(field, "must be a list of identifiers, not %s", kindOf(s.peek()))
			return s.skip()
		}
		return s.array(element)
	})
	if err != nil {
		problems.addError(err)
	}
	return identifiers
}

// predicate notes what is wrong with the predicate of an activation, at which the
// scanner is.
func predicate(s *scanner, problems *problemList) error {
	const field = keyPayload + "." + keyPredicate
	text, err := s.raw()
	switch {
	case err != nil:
		return err
	case text[0] != '"':
		problems.add(field, "must be a string, not %s", kindOf(text[0]))
	default:
		problems.addProblem(validatePredicate(field, decodeString(text)))
	}
	return nil
}

// References returns the identifiers of the declarations that this one refers
// to, sorted and unique: the StandardConfigurations of an activation. It is
// empty for declarations of other types.
func (d *Declaration) References() []string {
	if d.Type != typeActivationSimple {
		return nil
	}
	var problems problemList
	identifiers := standardConfigurations(d.Payload, &problems)
	slices.Sort(identifiers)
	return slices.Compact(identifiers)
}

// ContentHash returns a hash over the declaration's Identifier, Type and
// canonical Payload, in hexadecimal. White space, the order of keys and the
// spelling of strings don't change it; everything else does.
func (d *Declaration) ContentHash() string {
	h := newFieldHash(purposeContent)
	h.field([]byte(d.Identifier))
	h.field([]byte(d.Type))
	h.field(canonical(d.Payload))
	return h.token()
}

// JSON returns the declaration as a device gets it. The payload's text is
// unchanged. Apple: declarations/declarationbase.yaml.
func (d *Declaration) JSON() []byte {
	const keys = `{"Identifier":"","Type":"","ServerToken":"","Payload":}`
	text := make([]byte, 0, len(keys)+len(d.Identifier)+len(d.Type)+len(d.ServerToken)+len(d.Payload))
	text = append(text, `{"Identifier":`...)
	text = appendString(text, d.Identifier)
	text = append(text, `,"Type":`...)
	text = appendString(text, d.Type)
	text = append(text, `,"ServerToken":`...)
	text = appendString(text, d.ServerToken)
	text = append(text, `,"Payload":`...)
	text = append(text, d.Payload...)
	return append(text, '}')
}
