// Package dsn reads the names of MySQL databases, which have passwords in them. It connects to nothing.
package dsn

import (
	"errors"
	"slices"

	"github.com/go-sql-driver/mysql"
)

// errForm is told instead of the driver's errors, which quote parts: where a DSN is not as it should be, what looks like a
// network or a name may be of the password.
var errForm = errors.New("it is not like user:password@tcp(host:3306)/name?option=value")

// networks are those that can be connected by.
var networks = []string{"tcp", "unix"}

// Parse reads a DSN in the form of github.com/go-sql-driver/mysql, which names a database. Errors quote nothing of it.
func Parse(text string) (*mysql.Config, error) {
	config, err := mysql.ParseDSN(text)
	switch {
	case err != nil, !slices.Contains(networks, config.Net):
		return nil, errForm
	case config.DBName == "":
		return nil, errors.New("it names no database")
	}
	return config, nil
}
