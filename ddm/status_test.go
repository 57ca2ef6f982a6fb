package ddm

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

const fullReport = `{
  "StatusItems": {
    "device": {
      "identifier": {"serial-number": "C02\u002d1", "udid": "U-1"},
      "operating-system": {"version": "17.0", "build-version": null},
      "power": {"battery-health": 9007199254740993}
    },
    "management": {
      "client-capabilities": {"supported-versions": ["1.0.0", "2"], "supported-features": {}},
      "declarations": {
        "activations": [{"identifier": "a", "server-token": "t1", "active": true, "valid": "valid"}],
        "configurations": [
          {"identifier": "c", "server-token": "old", "active": false, "valid": "invalid", "reasons": [ {"code": "Error.X", "description": "d"} ]},
          {"identifier": "c", "server-token": "new", "active": false, "valid": "unknown", "reasons": [{"code": "Info.Predicate"}]}
        ],
        "assets": [],
        "management": [{"identifier": "m", "server-token": "t2", "active": false, "valid": "valid"}]
      }
    },
    "mdm": {"app": [{"identifier": "com.x", "name": "X", "version": [ 1 ]}, {"_removed": true, "identifier": "com.y"}]},
    "passcode": {"is-compliant": true},
    "new.family": [ ],
    "mixed": [{"identifier": "x", "_removed": true}, 5, "s"]
  },
  "Errors": [ {"StatusItem": "a.b", "Reasons": [ {"Code": "Error.Y"} ]}, "odd" ],
  "FullReport": true,
  "Unknown": {"a": 1}
}`

// scalar returns a value that isn't a list.
func scalar(path, text string) StatusValue {
	return StatusValue{Path: ".StatusItems." + path, Elements: []StatusElement{{Value: []byte(text)}}}
}

func TestParseStatusReport(t *testing.T) {
	report, err := ParseStatusReport([]byte(fullReport))
	require.NoError(t, err)
	checkReport(t, report)
	failed := `{"identifier":"c","server-token":"old","active":false,"valid":"invalid","reasons":[{"code":"Error.X","description":"d"}]}`
	require.Equal(t, &StatusReport{
		FullReport:      true,
		HasDeclarations: true,
		Declarations: []DeclarationStatus{
			{Class: ClassActivation, Identifier: "a", ServerToken: "t1", Active: true, Valid: "valid"},
			{Class: ClassConfiguration, Identifier: "c", ServerToken: "old", Valid: "invalid", Reasons: []byte(`[{"code":"Error.X","description":"d"}]`)},
			{Class: ClassConfiguration, Identifier: "c", ServerToken: "new", Valid: "unknown", Reasons: []byte(`[{"code":"Info.Predicate"}]`)},
			{Class: ClassManagement, Identifier: "m", ServerToken: "t2", Valid: "valid"},
		},
		Values: []StatusValue{
			scalar("device.identifier.serial-number", `"C02\u002d1"`),
			scalar("device.identifier.udid", `"U-1"`),
			scalar("device.operating-system.version", `"17.0"`),
			scalar("device.operating-system.build-version", `null`),
			scalar("device.power.battery-health", `9007199254740993`),
			{Path: ".StatusItems.management.client-capabilities.supported-versions", List: true, Elements: []StatusElement{
				{Key: "0000000", Value: []byte(`"1.0.0"`)}, {Key: "0000001", Value: []byte(`"2"`)},
			}},
			scalar("management.client-capabilities.supported-features", `{}`),
			{Path: ".StatusItems.mdm.app", List: true, Keyed: true, Elements: []StatusElement{
				{Key: "com.x", Value: []byte(`{"identifier":"com.x","name":"X","version":[1]}`)},
				{Key: "com.y", Value: []byte(`{"_removed":true,"identifier":"com.y"}`), Removed: true},
			}},
			scalar("passcode.is-compliant", `true`),
			{Path: ".StatusItems.new.family", List: true},
			{Path: ".StatusItems.mixed", List: true, Keyed: true, Elements: []StatusElement{
				{Key: "x", Value: []byte(`{"identifier":"x","_removed":true}`), Removed: true},
				{Key: "~0000001", Value: []byte(`5`)},
				{Key: "~0000002", Value: []byte(`"s"`)},
			}},
		},
		Errors: []StatusError{
			{Path: ".StatusItems.management.declarations.configurations", Error: []byte(failed)},
			{Path: ".Errors", Error: []byte(`{"StatusItem":"a.b","Reasons":[{"Code":"Error.Y"}]}`)},
			{Path: ".Errors", Error: []byte(`"odd"`)},
		},
	}, report)
}

const strangeReport = `{"StatusItems":{
  "FullReport":true,
  "nested":{"FullReport":false,"":1,"a.b":2,"\u00e9\ud800":3},
  "management":{"declarations":{
    "activations":[5,{"server-token":"t"},{"identifier":""},{"identifier":7},{"identifier":"a","active":"yes","server-token":1,"valid":"future"}],
    "assets":"none",
    "others":[{"identifier":"x"}],
    "configurations":[
      {"identifier":"b","valid":"valid","reasons":[{"Code":"Error.Z"}]},
      {"identifier":"c","valid":5,"reasons":"Error."},
      {"identifier":"d","reasons":["Error.",{"code":4},{"code":"Info.Error."}]},
      {"identifier":"e","server-token":"t","active":false,"valid":"valid"},
      {"identifier":"e","server-token":"t","active":true,"valid":"valid"}
    ]}}}}`

func TestParseStrangeStatusReport(t *testing.T) {
	report, err := ParseStatusReport([]byte(strangeReport))
	require.NoError(t, err)
	checkReport(t, report)
	require.Equal(t, &StatusReport{
		FullReport:      true,
		HasDeclarations: true,
		Declarations: []DeclarationStatus{
			{Class: ClassActivation, Identifier: "a", Valid: "future"},
			{Class: ClassConfiguration, Identifier: "b", Valid: "valid", Reasons: []byte(`[{"Code":"Error.Z"}]`)},
			{Class: ClassConfiguration, Identifier: "c", Valid: "unknown"},
			{Class: ClassConfiguration, Identifier: "d", Valid: "unknown", Reasons: []byte(`["Error.",{"code":4},{"code":"Info.Error."}]`)},
			{Class: ClassConfiguration, Identifier: "e", ServerToken: "t", Active: true, Valid: "valid"},
		},
		Values: []StatusValue{
			scalar("nested.FullReport", "false"),
			scalar("nested.", "1"),
			scalar("nested.a.b", "2"),
			scalar("nested.é\ufffd", "3"),
			{Path: ".StatusItems.management.declarations.activations", List: true, Elements: []StatusElement{
				{Key: "0000000", Value: []byte(`5`)},
				{Key: "0000001", Value: []byte(`{"server-token":"t"}`)},
				{Key: "0000002", Value: []byte(`{"identifier":""}`)},
				{Key: "0000003", Value: []byte(`{"identifier":7}`)},
			}},
			scalar("management.declarations.assets", `"none"`),
			{Path: ".StatusItems.management.declarations.others", List: true, Keyed: true, Elements: []StatusElement{
				{Key: "x", Value: []byte(`{"identifier":"x"}`)},
			}},
		},
		Errors: []StatusError{
			{Path: ".StatusItems.management.declarations.configurations", Error: []byte(`{"identifier":"b","valid":"valid","reasons":[{"Code":"Error.Z"}]}`)},
		},
	}, report)
}

func TestStatusReportShapes(t *testing.T) {
	tests := []struct {
		name, text string
		want       StatusReport
	}{
		{"empty", `{}`, StatusReport{}},
		{"no items", `{"StatusItems":{},"Errors":[],"FullReport":false}`, StatusReport{}},
		{"odd full report", `{"FullReport":"true","StatusItems":{"FullReport":1}}`, StatusReport{}},
		{"declarations empty", `{"StatusItems":{"management":{"declarations":{}}}}`, StatusReport{HasDeclarations: true}},
		{"declarations not nested", `{"StatusItems":{"management.declarations":{"assets":[{"identifier":"a"}]}}}`,
			StatusReport{HasDeclarations: true, Declarations: []DeclarationStatus{{Class: ClassAsset, Identifier: "a", Valid: "unknown"}}}},
		{"declarations twice", `{"StatusItems":{"management.declarations":{"assets":[{"identifier":"a","valid":"invalid"}]},"management":{"declarations":{"assets":[]}}}}`,
			StatusReport{HasDeclarations: true}},
		{"declarations null", `{"StatusItems":{"management":{"declarations":null}}}`, StatusReport{Values: []StatusValue{scalar("management.declarations", "null")}}},
		{"path twice", `{"StatusItems":{"a":{"b":1},"c":2,"a.b":3,"c":[4]}}`, StatusReport{Values: []StatusValue{
			scalar("a.b", "3"),
			{Path: ".StatusItems.c", List: true, Elements: []StatusElement{{Key: "0000000", Value: []byte("4")}}},
		}}},
		{"keyed twice", `{"StatusItems":{"a":[{"identifier":"x","n":1},{"identifier":"y"},{"identifier":"x","n":2}]}}`, StatusReport{Values: []StatusValue{
			{Path: ".StatusItems.a", List: true, Keyed: true, Elements: []StatusElement{
				{Key: "x", Value: []byte(`{"identifier":"x","n":2}`)}, {Key: "y", Value: []byte(`{"identifier":"y"}`)},
			}},
		}}},
		{"lists in lists", `{"StatusItems":{"a":[[1, 2],[],{}]}}`, StatusReport{Values: []StatusValue{
			{Path: ".StatusItems.a", List: true, Elements: []StatusElement{
				{Key: "0000000", Value: []byte("[1,2]")}, {Key: "0000001", Value: []byte("[]")}, {Key: "0000002", Value: []byte("{}")},
			}},
		}}},
		{"an empty family", `{"StatusItems":{"management":{},"a":{"b":{}},"c.d":{}}}`, StatusReport{Values: []StatusValue{
			scalar("a.b", "{}"), scalar("c.d", "{}"),
		}}},
		{"errors twice", `{"Errors":[1],"Errors":[2]}`, StatusReport{Errors: []StatusError{{Path: ".Errors", Error: []byte("2")}}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			report, err := ParseStatusReport([]byte(test.text))
			require.NoError(t, err)
			checkReport(t, report)
			require.Equal(t, &test.want, report)
		})
	}
}

func TestOfRepeatedKeysTheLastCounts(t *testing.T) {
	t.Parallel()
	asset := func(id string) DeclarationStatus {
		return DeclarationStatus{Class: ClassAsset, Identifier: id, Valid: "unknown"}
	}
	declared := func(list ...DeclarationStatus) StatusReport {
		return StatusReport{HasDeclarations: true, Declarations: list}
	}
	values := func(list ...StatusValue) StatusReport { return StatusReport{Values: list} }
	tests := []struct {
		items string
		want  StatusReport
	}{
		// One key twice.
		{`{"a":{"b":1},"a":2}`, values(scalar("a", "2"))},
		{`{"a":2,"a":{"b":1}}`, values(scalar("a.b", "1"))},
		{`{"a":{"b":1,"c":2},"a":{"c":3}}`, values(scalar("a.c", "3"))},
		{`{"a":{"b":1},"\u0061":{}}`, StatusReport{}},
		{`{"f":{"a":{"b":1},"a":{"c":{"d":1},"c":{"e":1}},"ab":4}}`, values(scalar("f.a.c.e", "1"), scalar("f.ab", "4"))},
		{`{"a":[{"identifier":"x"}],"a":{"b":1}}`, values(scalar("a.b", "1"))},
		{`{"a":1,"a":2,"a":3}`, values(scalar("a", "3"))},
		// Two keys that are one path. One above the other is another path.
		{`{"a":{"b":1},"a.b":2}`, values(scalar("a.b", "2"))},
		{`{"a":{"b":1},"a.c":2,"a-b":3,"a.b":[]}`,
			values(StatusValue{Path: ".StatusItems.a.b", List: true}, scalar("a.c", "2"), scalar("a-b", "3"))},
		{`{"a.b":1,"a":2,"a.c":3}`, values(scalar("a.b", "1"), scalar("a", "2"), scalar("a.c", "3"))},
		{`{"x":{"a.b":1,"a":2},"x":{"a":3,"a.c":4}}`, values(scalar("x.a", "3"), scalar("x.a.c", "4"))},
		// Declarations.
		{`{"management":{"declarations":{"assets":[{"identifier":"a"}]}},"management":{"x":1}}`, values(scalar("management.x", "1"))},
		{`{"management":{"declarations":{"assets":[{"identifier":"a"}]}},"management":5}`, values(scalar("management", "5"))},
		{`{"management.declarations":{"assets":[{"identifier":"a"}]},"management":{"declarations":5}}`,
			values(scalar("management.declarations", "5"))},
		{`{"management":{"declarations":5},"management.declarations":{"assets":[{"identifier":"a"}]}}`, declared(asset("a"))},
		{`{"management.declarations":{"assets":[{"identifier":"a"}],"x":1},"management":{"declarations":{}}}`, declared()},
		{`{"management":{"declarations":{},"declarations":null}}`, values(scalar("management.declarations", "null"))},
		{`{"management":{"declarations":null,"declarations":{"assets":[{"identifier":"a"}]}}}`, declared(asset("a"))},
		{`{"management":{"declarations":{"assets":[{"identifier":"a"}],"assets":[{"identifier":"b"}]}}}`, declared(asset("b"))},
		{`{"management":{"declarations":{"assets":[{"identifier":"a","valid":"invalid"}],"assets":[]}}}`, declared()},
		{`{"management":{"declarations":{"assets":[{"identifier":"a","reasons":[{"code":"Error.X","code":"Info.Y"}]}]}}}`,
			declared(DeclarationStatus{Class: ClassAsset, Identifier: "a", Valid: "unknown", Reasons: []byte(`[{"code":"Error.X","code":"Info.Y"}]`)})},
		{`{"management":{"declarations":{"assets":[5],"assets":[{"identifier":"b"}]}}}`, declared(asset("b"))},
		{`{"management":{"declarations":{"assets":[{"identifier":"a"}],"assets":"none"}}}`,
			StatusReport{HasDeclarations: true, Values: []StatusValue{scalar("management.declarations.assets", `"none"`)}}},
		{`{"management":{"declarations":{"assets":"none","assets":[{"identifier":"b"}]}}}`, declared(asset("b"))},
		{`{"management":{"declarations":{"assets":[{"identifier":"a"}]}},"management.declarations.assets":1}`,
			StatusReport{HasDeclarations: true, Values: []StatusValue{scalar("management.declarations.assets", "1")}}},
	}
	for _, test := range tests {
		report, err := ParseStatusReport([]byte(`{"StatusItems":` + test.items + `}`))
		require.NoError(t, err)
		checkReport(t, report)
		require.Equal(t, &test.want, report, test.items)
	}

	for text, full := range map[string]bool{
		`{"FullReport":true,"FullReport":false}`:                           false,
		`{"FullReport":false,"FullReport":true}`:                           true,
		`{"FullReport":true,"FullReport":"true"}`:                          false,
		`{"StatusItems":{"FullReport":true,"FullReport":false}}`:           false,
		`{"StatusItems":{"FullReport":true},"StatusItems":{}}`:             false,
		`{"FullReport":true,"StatusItems":{"FullReport":false}}`:           true,
		`{"FullReport":false,"StatusItems":{"FullReport":true}}`:           true,
		`{"FullReport":true,"FullReport":0,"StatusItems":{"Full":{}}}`:     false,
		`{"StatusItems":[],"StatusItems":{"FullReport":true},"Errors":[]}`: true,
	} {
		report, err := ParseStatusReport([]byte(text))
		require.NoError(t, err)
		require.Equal(t, full, report.FullReport, text)
	}

	report, err := ParseStatusReport([]byte(`{"Errors":5,"Errors":[1],"StatusItems":{"a":1,"management":{"declarations":{}}},"StatusItems":{"b":2}}`))
	require.NoError(t, err)
	require.Equal(t, &StatusReport{Values: []StatusValue{scalar("b", "2")}, Errors: []StatusError{{Path: ".Errors", Error: []byte("1")}}}, report)
	_, err = ParseStatusReport([]byte(`{"StatusItems":{},"StatusItems":[]}`))
	require.EqualError(t, err, "StatusItems: must be an object, not a list")
}

// TestRepeatedKeysAsInTheStandardLibrary compares what is left of objects with
// repeated keys with what encoding/json makes of them.
func TestRepeatedKeysAsInTheStandardLibrary(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var object func(depth int) string
		object = func(depth int) string {
			var members []string
			for range rapid.IntRange(0, 4).Draw(t, "members") {
				value := "1"
				if depth < 3 && rapid.Bool().Draw(t, "nested") {
					value = object(depth + 1)
				} else if rapid.Bool().Draw(t, "text") {
					value = `"x"`
				}
				members = append(members, rapid.SampledFrom([]string{`"a"`, `"b"`, `"a-"`, `"\u0061"`}).Draw(t, "key")+":"+value)
			}
			return "{" + strings.Join(members, ",") + "}"
		}
		items := object(0)
		var tree map[string]any
		require.NoError(t, json.Unmarshal([]byte(items), &tree))
		want := map[string]string{}
		var flatten func(path string, value any)
		flatten = func(path string, value any) {
			members, ok := value.(map[string]any)
			if !ok || len(members) == 0 {
				text, err := json.Marshal(value)
				require.NoError(t, err)
				want[path] = string(text)
				return
			}
			for key, member := range members {
				flatten(path+"."+key, member)
			}
		}
		for family, value := range tree {
			if members, ok := value.(map[string]any); !ok || len(members) > 0 {
				flatten(".StatusItems."+family, value)
			}
		}
		report, err := ParseStatusReport([]byte(`{"StatusItems":` + items + `}`))
		require.NoError(t, err)
		got := map[string]string{}
		for _, value := range report.Values {
			got[value.Path] = string(value.Elements[0].Value)
		}
		require.Equal(t, want, got, items)
	})
}

// TestRepeatedKeysAreBounded checks that keys of which each takes the place of
// all before take no more time than others.
func TestRepeatedKeysAreBounded(t *testing.T) {
	t.Parallel()
	const times = 50_000
	var many strings.Builder
	for i := range times {
		many.WriteString(`"k` + strconv.Itoa(i) + `":1,`)
	}
	for _, items := range []string{
		strings.Repeat(`"a":{"b":1},`, times) + `"a":2`,
		many.String() + strings.Repeat(`"a":{},`, 2*times) + `"a":{"b":1}`,
		`"` + strings.Repeat(".", 200) + `":1,` + strings.ReplaceAll(many.String(), "k", strings.Repeat(".", 140)) + `"a":1,"a":2`,
		`"management":{"declarations":{"assets":[` + strings.Repeat(`{"identifier":"a"},`, times) + `{"identifier":"b"}],` +
			strings.Repeat(`"management":[],`, times) + `"assets":[]}}`,
	} {
		report, err := ParseStatusReport([]byte(`{"StatusItems":{` + items + `}}`))
		require.NoError(t, err)
		require.Empty(t, report.Declarations)
	}
}

// TestNullSaysNothing checks that a report with null in place of a member is
// the report without that member.
func TestNullSaysNothing(t *testing.T) {
	for text, without := range map[string]string{
		`{"StatusItems":{"a":1},"Errors":null}`:                                             `{"StatusItems":{"a":1}}`,
		`{"StatusItems":null,"Errors":[{"StatusItem":"a"}]}`:                                `{"Errors":[{"StatusItem":"a"}]}`,
		`{"StatusItems": null , "Errors": null}`:                                            `{}`,
		`{"FullReport":null,"StatusItems":{"a":1,"FullReport":null}}`:                       `{"StatusItems":{"a":1}}`,
		`{"StatusItems":[],"Errors":{},"FullReport":true,"Errors":null,"StatusItems":null}`: `{"FullReport":true}`,
		`{"StatusItems":{"a":1,"FullReport":true},"StatusItems":null}`:                      `{}`,
	} {
		report, err := ParseStatusReport([]byte(text))
		require.NoError(t, err, text)
		want, err := ParseStatusReport([]byte(without))
		require.NoError(t, err)
		require.Equal(t, want, report, text)
	}
}

func TestParseStatusReportRefuses(t *testing.T) {
	tests := []struct{ text, want string }{
		{"", "the JSON text must not be empty"},
		{"[]", "the JSON text must be an object, not a list"},
		{"nonsense", "line 1, column 1: unexpected 'n', expected a value"},
		{`{"StatusItems":{"a":1}`, "StatusItems: line 1, column 23: unexpected end of JSON, expected a comma or a closing brace"},
		{`{"StatusItems":{"a":[1,"\q"]}}`, "StatusItems.a[1]: line 1, column 25: invalid escape sequence in a string"},
		{`{"StatusItems":[],"Errors":{}}`, "StatusItems: must be an object, not a list; Errors: must be a list, not an object"},
		{`{"StatusItems":7,"Errors":null}`, "StatusItems: must be an object, not a number"},
		{`{"StatusItems":nil}`, "StatusItems: line 1, column 16: unexpected 'n', expected a value"},
		{"{\"StatusItems\":{\"a\":\"\xff\"}}", "line 1, column 22: invalid UTF-8"},
		{`{} {}`, "line 1, column 4: unexpected '{', expected the end, since the object is complete"},
	}
	for _, test := range tests {
		report, err := ParseStatusReport([]byte(test.text))
		require.Nil(t, report)
		var invalid *InvalidError
		require.ErrorAs(t, err, &invalid)
		require.EqualError(t, err, test.want)
	}
	for _, open := range []string{`{"StatusItems":`, `{"StatusItems":{"a":[`, `[`} {
		_, err := ParseStatusReport([]byte(strings.Repeat(open, 1<<20)))
		require.ErrorContains(t, err, "nested deeper than 64 levels")
	}
}

func TestStatusReportIsBounded(t *testing.T) {
	_, err := ParseStatusReport([]byte(`{"StatusItems":{"a":[` + strings.Repeat("0,", maxStatusValues) + `0]}}`))
	require.ErrorContains(t, err, "more than 131072 values")
	_, err = ParseStatusReport([]byte(`{"StatusItems":{"a":[` + strings.Repeat("0,", maxStatusValues-2) + `0]}}`))
	require.NoError(t, err, "the list itself is one of them")
	_, err = ParseStatusReport([]byte(`{"StatusItems":{"a":[` + strings.Repeat("0,", maxStatusValues-2) + `0]},"Errors":[0]}`))
	require.ErrorContains(t, err, "more than 131072 values", "all together")

	long := strings.Repeat("é", 100)
	report, err := ParseStatusReport([]byte(`{"StatusItems":{"` + long + `":{"` + long + `":{"a":1,"b":2,"` + long + `":3}},"list":[{"identifier":"` + long + long + `"}],` +
		`"management":{"declarations":{"assets":[{"identifier":"` + long + long + `"},{"identifier":"a","server-token":"` + long + long + `"},{"identifier":"a","valid":"` + long + long + `"}]}}}}`))
	require.NoError(t, err)
	checkReport(t, report)
	require.Empty(t, report.Declarations)
	require.Len(t, report.Values, 3)
	path, whole := report.Values[0].Path, report.Values[0].Elements[0].Value
	require.True(t, strings.HasPrefix(path, ".StatusItems."+long+"."))
	require.Equal(t, `{"a":1,"b":2,"`+long+`":3}`, string(whole), "its members would have no paths of their own")
	require.True(t, strings.HasPrefix(report.Values[1].Elements[0].Key, long))
	require.Len(t, report.Values[2].Elements, 3)
}

func TestLongPathsBeginWithTheirParent(t *testing.T) {
	t.Parallel()
	short := strings.Repeat("p", maxParentOctets-len(".StatusItems.f."))
	long := strings.Repeat("k", 100)
	report, err := ParseStatusReport([]byte(`{"StatusItems":{"f":{"` + short + `":{"` + long + `":1,"` + long + `2":2,"é` + long + `":{"x":3}},"` +
		short + `p":{"` + long + `":4}}}}`))
	require.NoError(t, err)
	checkReport(t, report)
	require.Len(t, report.Values, 4)
	for i, value := range []string{"1", "2", `{"x":3}`} {
		require.True(t, strings.HasPrefix(report.Values[i].Path, ".StatusItems.f."+short+"."), report.Values[i].Path)
		require.Equal(t, value, string(report.Values[i].Elements[0].Value))
	}
	require.Equal(t, scalar("f."+short+"p", `{"`+long+`":4}`), report.Values[3])
}

func TestMatchesComposition(t *testing.T) {
	report, err := ParseStatusReport([]byte(fullReport))
	require.NoError(t, err)
	items := []Item{
		{ClassManagement, "m", "t2"},
		{ClassConfiguration, "c", "new"},
		{ClassConfiguration, "c", "old"},
		{ClassActivation, "a", "t1"},
	}
	require.True(t, report.MatchesComposition(items))
	require.False(t, report.MatchesComposition(items[:3]), "the device has more")
	require.False(t, report.MatchesComposition(append(items, Item{ClassAsset, "x", "t"})), "the device lacks one")
	items[0].ServerToken = "t3"
	require.False(t, report.MatchesComposition(items), "the device has another version")
	items[0].ServerToken, items[0].Class = "t2", ClassAsset
	require.False(t, report.MatchesComposition(items), "the device has another class")

	none, err := ParseStatusReport([]byte(`{"StatusItems":{"management":{"declarations":{"assets":[]}}}}`))
	require.NoError(t, err)
	require.True(t, none.MatchesComposition(nil))
	silent, err := ParseStatusReport([]byte(`{"StatusItems":{}}`))
	require.NoError(t, err)
	require.False(t, silent.MatchesComposition(nil))
}

// largeReport returns a report of about size octets.
func largeReport(size int) []byte {
	var report strings.Builder
	report.WriteString(`{"StatusItems":{"device":{"operating-system":{"version":"17.0"}},"management":{"declarations":{"activations":[],"assets":[],"management":[],"configurations":[`)
	for i := 0; report.Len() < size/2; i++ {
		if i > 0 {
			report.WriteByte(',')
		}
		report.WriteString(`{"identifier":"com.example.configuration.` + strconv.Itoa(i) + `","server-token":"0123456789012345678901234567890123456789","active":true,"valid":"valid"}`)
	}
	report.WriteString(`]}},"mdm":{"app":[`)
	for i := 0; report.Len() < size; i++ {
		if i > 0 {
			report.WriteByte(',')
		}
		report.WriteString(`{"identifier":"com.example.app.` + strconv.Itoa(i) + `","name":"An app","version":"1.2.3","state":"managed"}`)
	}
	report.WriteString(`]}},"Errors":[]}`)
	return []byte(report.String())
}

func BenchmarkParseStatusReport(b *testing.B) {
	for _, size := range []int{10 << 10, 5 << 20} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			report := largeReport(size)
			b.SetBytes(int64(len(report)))
			b.ReportAllocs()
			for b.Loop() {
				_, err := ParseStatusReport(report)
				require.NoError(b, err)
			}
		})
	}
}

func TestReasonCode(t *testing.T) {
	t.Parallel()
	long := "Error." + strings.Repeat("é", 200)
	for _, test := range []struct {
		reasons, code string
		isError       bool
	}{
		{`[{"code":"Info.A"},{"code":"Error.B"},{"code":"Error.C"}]`, "Error.B", true},
		{` [ {"Code" : "Error.A"} ] `, "Error.A", true},
		{`[{"code":"Info.A"},{"code":"Info.B"}]`, "Info.A", false},
		{`[{"c\u006fde":"Error\u002eA"}]`, "Error.A", true},
		{`[{"code":"\u0045rror.\u0000"}]`, "Error.\x00", true},
		{`[{"code":"Error.A","code":"Info.B"}]`, "Info.B", false},
		{`[{"code":"` + long + `"}]`, boundedName(long), true},
		{`[7,null,[],{"code":5},{"code":""},{"description":"Error.A"},{"code":"Error.B"}]`, "Error.B", true},
		{`[]`, "unknown", false}, {`{"code":"Error.A"}`, "unknown", false}, {``, "unknown", false}, {`"Error."`, "unknown", false},
		{`[{"code":"Error.A"`, "unknown", false},
	} {
		code, isError := ReasonCode([]byte(test.reasons))
		require.Equal(t, test.code, code, test.reasons)
		require.Equal(t, test.isError, isError, test.reasons)
	}
}

func TestElementKey(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 300)
	for element, key := range map[string]string{
		`{"identifier":"a"}`: "a", `{ "b" : [1] , "identifier":"\u0061" }`: "a", `{"identifier":""}`: "",
		`{"identifier":"` + long + `"}`: boundedName(long),
	} {
		got, keyed := ElementKey([]byte(element))
		require.True(t, keyed, element)
		require.Equal(t, key, got)
	}
	for _, element := range []string{``, `1`, `"identifier"`, `[]`, `{}`, `{"identifier":1}`, `{"identifier":null}`, `{`} {
		_, keyed := ElementKey([]byte(element))
		require.False(t, keyed, element)
	}
}
