package ddm

// declaredLists are the lists of an object management.declarations.
type declaredLists struct {
	order int // when it came; 0 if there is none
	lists []*declarationList
}

// declarationList is the list of one class.
type declarationList struct {
	class        Class
	order        int // when it came
	declarations []DeclarationStatus
	errors       []StatusError // the declarations that failed
}

// again returns the list of a class, made anew.
func (d *declaredLists) again(class Class, order int) *declarationList {
	for _, list := range d.lists {
		if list.class == class {
			*list = declarationList{class: class, order: order}
			return list
		}
	}
	list := &declarationList{class: class, order: order}
	d.lists = append(d.lists, list)
	return list
}

// all returns what all lists say.
func (d *declaredLists) all() (declarations []DeclarationStatus, errors []StatusError) {
	for _, list := range d.lists {
		declarations = append(declarations, list.declarations...)
		errors = append(errors, list.errors...)
	}
	return lastOfEach(declarations, (*DeclarationStatus).item), errors
}

// declarations takes the object management.declarations. It is the whole state
// of the device's declarations, so of two of them the last one counts.
// Apple: status/management.declarations.yaml.
func (r *statusReader) declarations() error {
	r.begin()
	r.declared = declaredLists{order: r.last}
	var keys keySet
	return r.object(func(key []byte) error {
		if r.peek() == '[' {
			for _, class := range Classes() {
				if decodeString(key) == class.statusListName() {
					parent := r.itemPath
					defer func() { r.itemPath = parent }()
					r.descend(&keys, key)
					return r.declarationList(class)
				}
			}
		}
		return r.item(&keys, key)
	})
}

// declarationList takes the list of one class. Elements that are no
// declarations become elements of a value.
func (r *statusReader) declarationList(class Class) error {
	list := r.declared.again(class, r.next())
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
		list.declarations = append(list.declarations, reader.status)
		if reader.failed() {
			list.errors = append(list.errors, StatusError{Path: string(r.itemPath), Error: text})
		}
		return r.counted()
	})
	if err == nil && strange != nil {
		r.add(StatusValue{List: true, Elements: strange}, list.order)
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

// readReasons takes the list of reasons. Apple: status/statusreason.yaml.
func (d *declarationStatusReader) readReasons(r *statusReader) error {
	start, spaces := r.pos, r.spaces
	d.errorReason = false
	err := r.array(func(int) error {
		code, err := r.reason()
		d.errorReason = d.errorReason || isErrorCode(code)
		return err
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
