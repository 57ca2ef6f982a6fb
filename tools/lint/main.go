// Command lint reports what gosec finds in packages, and ends with 3 where that is something. gosec's own command is not
// used, since it links in the clients of services that are not asked here.
package main

import (
	"github.com/securego/gosec/v2/goanalysis"
	"golang.org/x/tools/go/analysis/singlechecker"
)

func main() { singlechecker.Main(goanalysis.Analyzer) }
