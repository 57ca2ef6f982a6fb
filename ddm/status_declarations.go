package ddm

import "strings"

// declarations takes the object management.declarations. It is the whole state
// of the device's declarations, so of two of them the last one counts.
// Apple: status/management.declarations.yaml.
func (r *statusReader) declarations() error {
	r.report.HasDeclarations = true
	r.report.Declarations = nil
	r.declarationErrors = nil
	err := r.object(func(key []byte) error {
		if r.peek() == '[' {
			for _, class := range Classes() {
				if decodeString(key) == class.statusListName() {
					return r.declarationList(class)
				}
			}
		}
		return r.item(key)
	})
	r.report.Declarations = lastOfEach(r.report.Declarations, (*DeclarationStatus).item)
	return err
}

// declarationList takes the list of one class. Elements that are no
// declarations become elements of a value.
func (r *statusReader) declarationList(class Class) error {
	parent := r.itemPath
	r.itemPath = appendPath(parent, class.statusListName())
	defer func() { r.itemPath = parent }()

	var strange []StatusElement
	err := r.array(func(index int) error {
		start, spaces := r.pos, r.spaces
		var reader declarationStatusReader
		if r.peek() != '{' {
			if err := r.skip(); err != nil {
				return err
			}
		} else if err := reader.read(r); err != nil {
			return err
		}
		text := r.since(start, spaces)
		if !reader.sound() {
			strange = append(strange, StatusElement{Key: indexKey(index), Value: text})
			return r.counted()
		}
		reader.status.Class = class
		r.report.Declarations = append(r.report.Declarations, reader.status)
		if reader.failed() {
			r.declarationErrors = append(r.declarationErrors, StatusError{Path: string(r.itemPath), Error: text})
		}
		return r.counted()
	})
	if err == nil && strange != nil {
		r.add(StatusValue{List: true, Elements: strange})
	}
	return err
}

// declarationStatusReader reads the status of one declaration.
type declarationStatusReader struct {
	status      DeclarationStatus
	errorReason bool
}

// sound reports whether this is the status of a declaration. What is longer
// than any declaration of ours could not be stored as one either.
func (d *declarationStatusReader) sound() bool {
	return d.status.Identifier != "" &&
		len(d.status.Identifier) <= maxNameOctets &&
		len(d.status.ServerToken) <= maxNameOctets &&
		len(d.status.Valid) <= maxNameOctets
}

// failed reports whether the declaration failed. A reason alone is no failure:
// Info.Predicate only says that an activation's predicate is false.
func (d *declarationStatusReader) failed() bool {
	return d.errorReason || d.status.Valid == "invalid"
}

// read takes the object at the reader's position.
func (d *declarationStatusReader) read(r *statusReader) error {
	d.status.Valid = "unknown"
	return r.object(func(key []byte) error {
		name := decodeString(key)
		if name == "reasons" && r.peek() == '[' {
			return d.readReasons(r)
		}
		text, err := r.rawMember()
		if err != nil {
			return err
		}
		switch name {
		case "identifier":
			d.status.Identifier = stringOr(text, "")
		case "server-token":
			d.status.ServerToken = stringOr(text, "")
		case "active":
			d.status.Active = string(text) == "true"
		case "valid":
			d.status.Valid = stringOr(text, "unknown")
		case "reasons":
			d.status.Reasons, d.errorReason = nil, false
		}
		return nil
	})
}

// readReasons takes the list of reasons. Apple: status/statusreason.yaml; the
// code is spelled "Code" in protocol/statusreport.yaml.
func (d *declarationStatusReader) readReasons(r *statusReader) error {
	start, spaces := r.pos, r.spaces
	d.errorReason = false
	err := r.array(func(int) error {
		if r.peek() != '{' {
			return r.skip()
		}
		return r.object(func(key []byte) error {
			text, err := r.rawMember()
			if err != nil {
				return err
			}
			if name := decodeString(key); name == "code" || name == "Code" {
				if strings.HasPrefix(stringOr(text, ""), "Error.") {
					d.errorReason = true
				}
			}
			return nil
		})
	})
	if err == nil {
		d.status.Reasons = r.since(start, spaces)
	}
	return err
}

// stringOr returns what a scanned value stands for if it is a string, and else
// the alternative.
func stringOr(text []byte, alternative string) string {
	if text[0] != '"' {
		return alternative
	}
	return decodeString(text)
}
