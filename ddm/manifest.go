package ddm

import "time"

// DeclarationItemsJSON returns the composition as Apple's manifest. All four
// lists are always present. Apple: protocol/declarationitemsresponse.yaml.
func (c *Composition) DeclarationItemsJSON() []byte {
	const keys = `{"Identifier":"","ServerToken":""},`
	size := 128 + len(c.Token)
	for _, item := range c.Items {
		size += len(keys) + len(item.Identifier) + len(item.ServerToken)
	}
	text := append(make([]byte, 0, size), `{"Declarations":{`...)
	for i, class := range Classes() {
		if i > 0 {
			text = append(text, ',')
		}
		text = appendString(text, class.listName())
		text = append(text, ":["...)
		separator := ""
		for _, item := range c.Items {
			if item.Class != class {
				continue
			}
			text = append(text, separator...)
			text = append(text, `{"Identifier":`...)
			text = appendString(text, item.Identifier)
			text = append(text, `,"ServerToken":`...)
			text = appendString(text, item.ServerToken)
			text = append(text, '}')
			separator = ","
		}
		text = append(text, ']')
	}
	text = append(text, `},"DeclarationsToken":`...)
	text = appendString(text, c.Token)
	return append(text, '}')
}

// ParseDeclarationItems returns the items of a manifest that
// DeclarationItemsJSON made, in the manifest's order. Its error is an
// *InvalidError.
func ParseDeclarationItems(data []byte) ([]Item, error) {
	s, err := newScanner(data)
	if err != nil {
		return nil, err
	}
	var items []Item
	found := false
	list := func(key []byte) error {
		for _, class := range Classes() {
			if decodeString(key) == class.listName() {
				return s.expectArray(func(int) error {
					item := Item{Class: class}
					err := s.expectObject(func(key []byte) (err error) {
						switch decodeString(key) {
						case keyIdentifier:
							item.Identifier, err = s.expectString()
						case keyServerToken:
							item.ServerToken, err = s.expectString()
						default:
							err = s.skip()
						}
						return err
					})
					if err == nil && item.Identifier == "" {
						err = invalid(s.where(), "%s is missing", keyIdentifier)
					}
					items = append(items, item)
					return err
				})
			}
		}
		return s.skip()
	}
	err = s.document(func(key []byte) error {
		if decodeString(key) != "Declarations" {
			return s.skip()
		}
		found = true
		return s.expectObject(list)
	})
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, invalid("Declarations", "is missing")
	}
	return items, nil
}

// expectObject is object where there must be one.
func (s *scanner) expectObject(member func(key []byte) error) error {
	if s.peek() != '{' {
		return s.unexpected("an object")
	}
	return s.object(member)
}

// expectArray is array where there must be one.
func (s *scanner) expectArray(element func(index int) error) error {
	if s.peek() != '[' {
		return s.unexpected("a list")
	}
	return s.array(element)
}

// expectString passes the string at pos, where there must be one, and returns
// what it stands for.
func (s *scanner) expectString() (string, error) {
	if s.peek() != '"' {
		return "", s.unexpected("a string")
	}
	quoted, err := s.str()
	if err != nil {
		return "", err
	}
	return decodeString(quoted), nil
}

// TokensJSON returns the answer to a device's question for its tokens. The
// timestamp is given in UTC and whole seconds, as devices expect.
// Apple: protocol/tokensresponse.yaml.
func TokensJSON(token string, timestamp time.Time) []byte {
	text := append(make([]byte, 0, 128), `{"SyncTokens":{"DeclarationsToken":`...)
	text = appendString(text, token)
	text = append(text, `,"Timestamp":"`...)
	text = timestamp.UTC().Truncate(time.Second).AppendFormat(text, time.RFC3339)
	return append(text, `"}}`...)
}
