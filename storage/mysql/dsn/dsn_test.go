package dsn

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"user:secret@tcp(127.0.0.1:3306)/name", "user:sec/ret@unix(/run/mysqld.sock)/name?tls=true", "user:sec@ret@/name",
	} {
		config, err := Parse(text)
		require.NoError(t, err, text)
		require.Equal(t, "name", config.DBName, text)
		require.Contains(t, config.Passwd, "sec", text)
	}
	_, err := Parse("user@tcp(127.0.0.1:3306)/")
	require.ErrorContains(t, err, "names no database")
}

// TestErrorsQuoteNothing: what is mistyped in a DSN makes other parts of it out of the password.
func TestErrorsQuoteNothing(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"secret", "user:secret", "user:secret@tcp(h:3306)", "user:sec/secret@tcp(h:3306)", "user:secret/sec@tcp(h:3306)",
		"user:secret/name", "user:secret tcp(h:3306)/name", "user:secret(h)/name", "user:secret(h/name", "user:secret(h)x/name",
		"user:x/secret%zz@tcp(h:3306)", "user:x/x?parseTime=secret@tcp(h:3306)", "user:x/x?tls=secret@tcp(h:3306)",
		"user:x@secret(h)/name",
	} {
		_, err := Parse(text)
		require.EqualError(t, err, errForm.Error(), text)
	}
}
