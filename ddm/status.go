package ddm

// StatusReport is what a device says of itself. Reports are incremental: what a
// report doesn't mention is as it was. Apple: protocol/statusreport.yaml.
type StatusReport struct {
	// FullReport means that the report replaces everything known of the
	// device. Some devices put it inside StatusItems.
	FullReport bool
	// HasDeclarations says that management.declarations was present.
	HasDeclarations bool
	// Declarations is then the state of all the device's declarations. The
	// same identifier can be there with two server tokens, the old and the
	// new one; the same class, identifier and server token can not.
	Declarations []DeclarationStatus
	// Values are all other status items, in the order of the report. No path
	// is there twice.
	Values []StatusValue
	// Errors are the declarations that failed, then the report's own Errors.
	Errors []StatusError
}

// DeclarationStatus is what a device says of one declaration.
// Apple: status/management.declarations.yaml.
type DeclarationStatus struct {
	Class Class
	// Identifier has 1 to 255 octets.
	Identifier string
	// ServerToken has at most 255 octets; empty if the device gave none.
	ServerToken string
	Active      bool
	// Valid is "valid", "invalid" or "unknown", or whatever else the device
	// said, in at most 255 octets.
	Valid string
	// Reasons is the JSON list of reasons, compact, or nil if there is none.
	Reasons []byte
}

// StatusValue is the value of one status item, a leaf of the tree that
// StatusItems is.
type StatusValue struct {
	// Path is the keys that lead to the value, joined by dots, such as
	// ".StatusItems.device.operating-system.version". It has at most 255
	// octets: of a longer one the start is kept, with a hash, in which the path
	// that it is below is whole. What has members that could not be below it
	// for that is a value as it is.
	Path string
	// List says that the value came in a list, each element being one of
	// Elements. Otherwise there is one element, with an empty Key.
	List bool
	// Keyed says that the list is one of objects that have a string
	// "identifier": it holds what changed, to be merged by Key. A strange
	// element among them has a key by its index. A list without any
	// identifier isn't keyed, and replaces what was known.
	Keyed    bool
	Elements []StatusElement
}

// StatusElement is a scalar, or an element of a list.
type StatusElement struct {
	// Key is the identifier of a keyed element, of which more than 255 octets
	// are shortened like a path; else the index in decimal, zero-padded so
	// that it sorts. No two elements of a list have the same key.
	Key string
	// Value is the JSON text exactly as given, but for insignificant white
	// space. It may alias the report.
	Value []byte
	// Removed says that a keyed element is gone ("_removed": true).
	Removed bool
}

// StatusError is something that went wrong on the device.
type StatusError struct {
	// Path is ".Errors" for an element of the report's Errors, or
	// ".StatusItems.management.declarations.LIST" for a declaration.
	Path string
	// Error is the element's JSON text, compact. It may alias the report.
	Error []byte
}

// ParseStatusReport reads a status report. Strange items never cost the rest
// of the report: what has an unexpected shape becomes a value as it is. Of
// repeated keys the last one counts, with all that is in it, at every level and
// as in encoding/json; and so does what is last said of a path. Its error is an *InvalidError: the text
// isn't a JSON object or isn't UTF-8, is nested too deeply or has too many
// values, StatusItems isn't an object, or Errors isn't a list. Null in place of
// these is as good as nothing.
// Apple: protocol/statusreport.yaml.
func ParseStatusReport(data []byte) (*StatusReport, error) {
	s, err := newScanner(data)
	if err != nil {
		return nil, err
	}
	reader := &statusReader{
		scanner:  s,
		report:   &StatusReport{},
		itemPath: make([]byte, 0, maxNameOctets),
	}
	if err := s.document(reader.topLevel); err != nil {
		return nil, err
	}
	if err := reader.finish(); err != nil {
		return nil, err
	}
	return reader.report, nil
}

// MatchesComposition reports whether the report tells the state of the device's
// declarations and these are exactly items, in these versions: then the device
// has finished synchronizing.
func (r *StatusReport) MatchesComposition(items []Item) bool {
	if !r.HasDeclarations {
		return false
	}
	missing := make(map[Item]struct{}, len(items))
	for _, item := range items {
		missing[item] = struct{}{}
	}
	for i := range r.Declarations {
		item := r.Declarations[i].item()
		if _, ok := missing[item]; !ok {
			return false
		}
		delete(missing, item)
	}
	return len(missing) == 0
}

// item returns what the status is about.
func (d *DeclarationStatus) item() Item {
	return Item{Class: d.Class, Identifier: d.Identifier, ServerToken: d.ServerToken}
}
