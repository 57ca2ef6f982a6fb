package ddm

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
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

func TestParseStatusReportRefuses(t *testing.T) {
	tests := []struct{ text, want string }{
		{"", "the JSON text must not be empty"},
		{"[]", "the JSON text must be an object, not a list"},
		{"nonsense", "line 1, column 1: unexpected 'n', expected a value"},
		{`{"StatusItems":{"a":1}`, "StatusItems: line 1, column 23: unexpected end of JSON, expected a comma or a closing brace"},
		{`{"StatusItems":{"a":[1,"\q"]}}`, "StatusItems.a[1]: line 1, column 25: invalid escape sequence in a string"},
		{`{"StatusItems":[],"Errors":{}}`, "StatusItems: must be an object, not a list; Errors: must be a list, not an object"},
		{`{"StatusItems":null}`, "StatusItems: must be an object, not null"},
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

	long := strings.Repeat("é", 100)
	report, err := ParseStatusReport([]byte(`{"StatusItems":{"` + long + `":{"` + long + `":{"a":1,"b":2,"` + long + `":3}},"list":[{"identifier":"` + long + long + `"}],` +
		`"management":{"declarations":{"assets":[{"identifier":"` + long + long + `"},{"identifier":"a","server-token":"` + long + long + `"},{"identifier":"a","valid":"` + long + long + `"}]}}}}`))
	require.NoError(t, err)
	checkReport(t, report)
	require.Empty(t, report.Declarations)
	require.Len(t, report.Values, 5)
	for i, want := range []string{"1", "2", "3"} {
		require.True(t, strings.HasPrefix(report.Values[i].Path, ".StatusItems."+long+"."))
		require.Equal(t, want, string(report.Values[i].Elements[0].Value))
	}
	require.True(t, strings.HasPrefix(report.Values[3].Elements[0].Key, long))
	require.Len(t, report.Values[4].Elements, 3)
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
