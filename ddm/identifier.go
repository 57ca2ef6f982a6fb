package ddm

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxNameOctets is the limit for identifiers, set names and enrollment
	// ids, which are keys in storage.
	maxNameOctets = 255
	// appleIdentifierOctets is Apple's own limit for identifiers. Real tools
	// use longer ones, and devices take them, so more only gives a warning.
	// Apple: declarations/declarationbase.yaml.
	appleIdentifierOctets = 64
)

// ValidateIdentifier returns what is wrong with the identifier of a
// declaration, or nil. A device asks for a declaration with the endpoint
// "declaration/CLASS/IDENTIFIER", which the MDM server parses as a URL
// reference: an identifier that wouldn't come back from that unchanged could
// never be fetched, and would stop the device's whole sync.
func ValidateIdentifier(field, id string) *Problem {
	if problem := validateText(field, id); problem != nil {
		return problem
	}
	if i := strings.IndexAny(id, "?#%"); i >= 0 {
		return &Problem{field, fmt.Sprintf("must not contain %q: devices fetch a declaration by a URL that holds its identifier", id[i])}
	}
	for segment := range strings.SplitSeq(id, "/") {
		switch segment {
		case "":
			return &Problem{field, "must not begin or end with a slash or contain two in a row: devices fetch a declaration by a URL that holds its identifier"}
		case ".", "..":
			return &Problem{field, fmt.Sprintf("must not have the path segment %q: devices fetch a declaration by a URL that holds its identifier", segment)}
		}
	}
	return nil
}

// ValidateName returns what is wrong with the name of a set, or nil. A name has
// 1 to 255 octets of UTF-8 without control characters and without white space
// at its ends. It is not "." or "..", which a path is cleaned of.
func ValidateName(field, name string) *Problem {
	return validateText(field, name)
}

// ValidateEnrollmentID returns what is wrong with an enrollment id, or nil. It
// has 1 to 255 octets of UTF-8 without control characters, without white space
// at its ends and without a comma: NanoMDM splits lists of ids at commas, after
// unescaping, so it could never be told to synchronize.
func ValidateEnrollmentID(field, id string) *Problem {
	if problem := validateText(field, id); problem != nil {
		return problem
	}
	if strings.Contains(id, ",") {
		return &Problem{field, "must not contain a comma: the MDM server separates enrollment ids with it"}
	}
	return nil
}

// validateText returns what is wrong with text that is a key of ours, or nil.
func validateText(field, text string) *Problem {
	switch {
	case text == "":
		return &Problem{field, "must not be empty"}
	case len(text) > maxNameOctets:
		return &Problem{field, fmt.Sprintf("must not be longer than %d octets, has %d", maxNameOctets, len(text))}
	case !utf8.ValidString(text):
		return &Problem{field, "must be valid UTF-8"}
	}
	if text == "." || text == ".." {
		return &Problem{field, "must not be a path segment that means another one"}
	}
	// Control characters are C0, DEL and C1.
	if strings.ContainsFunc(text, unicode.IsControl) {
		return &Problem{field, "must not contain control characters"}
	}
	if strings.TrimSpace(text) != text {
		return &Problem{field, "must not begin or end with white space"}
	}
	return nil
}

// validateType returns what is wrong with the Type of a declaration, or nil,
// and its class.
func validateType(field, declarationType string) (Class, *Problem) {
	if problem := validateText(field, declarationType); problem != nil {
		return "", problem
	}
	if strings.ContainsFunc(declarationType, unicode.IsSpace) {
		return "", &Problem{field, "must not contain white space"}
	}
	class, err := ClassOfType(declarationType)
	if err != nil {
		return "", &Problem{field, err.Error()}
	}
	return class, nil
}
