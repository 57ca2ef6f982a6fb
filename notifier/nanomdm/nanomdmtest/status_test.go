package nanomdmtest

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

type reportedStatus struct {
	StatusItems struct {
		Device     json.RawMessage `json:"device"`
		Management struct {
			ClientCapabilities json.RawMessage                `json:"client-capabilities"`
			Declarations       map[string][]declarationStatus `json:"declarations"`
		} `json:"management"`
	}
	Errors     []any
	FullReport bool
}

func lastStatus(t *testing.T, stub *stub, id string) reportedStatus {
	t.Helper()

	requests := stub.received(id)
	last := requests[len(requests)-1]
	require.Equal(t, "/ddm/status", last.path)

	var report reportedStatus
	require.NoError(t, json.Unmarshal(last.body, &report))
	require.NotNil(t, report.Errors)

	return report
}

func TestStatusReports(t *testing.T) {
	t.Parallel()

	ctx, stub := testContext(t), startStub(t)
	device := enrolled(ctx, t, Start(t, WithDM(stub.dmURL())))

	require.NoError(t, device.Sync(ctx, nil))

	first := lastStatus(t, stub, device.ID())
	require.True(t, first.FullReport)
	require.NotEmpty(t, first.StatusItems.Device)
	require.NotEmpty(t, first.StatusItems.Management.ClientCapabilities)
	require.Equal(t, map[string][]declarationStatus{
		"activations":    {{Identifier: "example.activation", ServerToken: "1", Active: true, Valid: "valid"}},
		"assets":         {},
		"configurations": {{Identifier: "example.test", ServerToken: "1", Active: true, Valid: "valid"}},
		"management":     {{Identifier: "example.organization", ServerToken: "1", Valid: "valid"}},
	}, first.StatusItems.Management.Declarations)

	// Later reports are incremental, and what was removed is not in them.
	stub.put(testDeclaration("example.test", "2"))
	stub.remove("example.organization")
	device.SetFaults(Faults{ReportOldTokens: true})
	require.NoError(t, device.Sync(ctx, nil))

	second := lastStatus(t, stub, device.ID())
	require.False(t, second.FullReport)
	require.Empty(t, second.StatusItems.Device)
	require.Empty(t, second.StatusItems.Management.Declarations["management"])
	require.Equal(t, []declarationStatus{
		{Identifier: "example.test", ServerToken: "1", Valid: "unknown"},
		{Identifier: "example.test", ServerToken: "2", Active: true, Valid: "valid"},
	}, second.StatusItems.Management.Declarations["configurations"])

	require.NoError(t, device.ReportStatus(ctx, true))
	require.True(t, lastStatus(t, stub, device.ID()).FullReport)
	require.NoError(t, device.ReportStatus(ctx, false))
	require.False(t, lastStatus(t, stub, device.ID()).FullReport)

	// After an enrollment the first report is a full one again.
	require.NoError(t, device.Enroll(ctx))
	require.NoError(t, device.Sync(ctx, nil))
	require.True(t, lastStatus(t, stub, device.ID()).FullReport)
}

func TestEvaluate(t *testing.T) {
	t.Parallel()

	declarations := make(map[string]HeldDeclaration)
	hold := func(class, identifier, content string) {
		require.True(t, json.Valid([]byte(content)), identifier)
		declarations[identifier] = HeldDeclaration{
			Identifier: identifier, Class: class, ServerToken: "token", JSON: []byte(content),
		}
	}

	hold(classActivation, "good", `{"Payload":{"StandardConfigurations":["used","failing"]}}`)
	hold(classActivation, "broken", `{"Payload":{"StandardConfigurations":["unused","absent","info"]}}`)
	hold(classConfiguration, "used", `{"Payload":{"Nested":[{"AssetReference":"asset"}]}}`)
	hold(classConfiguration, "unused", `{"Payload":{"AssetReference":"idle asset"}}`)
	hold(classConfiguration, "failing", `{"Type":"`+testConfiguration+`","Payload":{"Echo":"x","ReturnStatus":"Failed"}}`)
	hold(classAsset, "asset", `{"Payload":{}}`)
	hold(classAsset, "idle asset", `{"Payload":{}}`)
	hold(classManagement, "info", `{"Payload":{}}`)

	evaluate(declarations)
	evaluate(declarations) // which changes nothing

	for identifier, want := range map[string]struct {
		active bool
		valid  string
		code   string
	}{
		"good":       {true, "valid", ""},
		"broken":     {false, "valid", "Error.MissingConfigurations"},
		"used":       {true, "valid", ""},
		"unused":     {false, "valid", "Info.NotReferencedByActivation"},
		"failing":    {false, "invalid", "Error.ConfigurationCannotBeApplied"},
		"asset":      {true, "valid", ""},
		"idle asset": {false, "valid", "Info.NotReferencedByConfiguration"},
		"info":       {false, "valid", ""},
	} {
		held := declarations[identifier]
		require.Equal(t, want.active, held.Active, identifier)
		require.Equal(t, want.valid, held.Valid, identifier)

		if want.code == "" {
			require.Empty(t, held.Reasons, identifier)
		} else {
			require.Len(t, held.Reasons, 1, identifier)
			require.Equal(t, want.code, held.Reasons[0].Code)
			require.Equal(t, identifier, held.Reasons[0].Details["Identifier"])
		}
	}

	require.Equal(t, []string{"absent", "info"},
		declarations["broken"].Reasons[0].Details["ConfigurationIdentifiers"])
}
