package ddm

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestValidatePredicate(t *testing.T) {
	for _, predicate := range []string{
		`@status(device.model.family) == "iPhone"`,
		`(@property(shard) <= 10) AND NOT (@status(device.operating-system.version) BEGINSWITH '17')`,
		`ANY @status(mdm.app) IN {"a)", 'b(', "it\"s", 'it\'s'}`,
		`SUBQUERY(@status(mdm.app), $app, ($app.@key(identifier) == "com.example.app") AND ($app.@key(state) == "managed")).@count == 1`,
		"TRUEPREDICATE",
	} {
		require.Nil(t, validatePredicate("Predicate", predicate), predicate)
	}
	for predicate, message := range map[string]string{
		"":                            "must not be empty: leave it out for an activation that always applies",
		" \t":                         "must not be empty: leave it out for an activation that always applies",
		"((":                          ") is missing at the end",
		`@status(a`:                   ") is missing at the end",
		`@status(a) == "x`:            `the quote " at offset 14 is not closed`,
		`@status(a) == 'x\'`:          `the quote ' at offset 14 is not closed`,
		`@status(a) == 1)`:            ") at offset 15 closes nothing",
		`@status(a] == 1`:             "] at offset 9 closes nothing",
		`@status(a) IN {"a", "b"`:     "} is missing at the end",
		`@status(a) IN {"a", "b)"} ]`: "] at offset 26 closes nothing",
	} {
		require.Equal(t, &Problem{"Predicate", message}, validatePredicate("Predicate", predicate), predicate)
	}
}

func TestPredicateOfDeclaration(t *testing.T) {
	parse := func(payload string) error {
		_, _, err := ParseDeclaration([]byte(`{"Identifier":"a","Type":"com.apple.activation.simple","Payload":` + payload + `}`))
		return err
	}
	require.NoError(t, parse(`{"StandardConfigurations":["b"],"Predicate":"@status(\"a\") == 1"}`))
	require.ErrorContains(t, parse(`{"Predicate":"(("}`), "Payload.Predicate: ) is missing at the end")
	require.ErrorContains(t, parse(`{"Predicate":1}`), "Payload.Predicate: must be a string, not a number")
}
