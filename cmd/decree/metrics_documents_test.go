package main

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/decree-ddm/decree/notifier"
)

// told is a metric as it is documented: its type, and its labels.
type told struct {
	kind   string
	labels []string
}

// metricsOf are Decree's own metrics of a scrape by name. The parts of a histogram are one.
func metricsOf(t *testing.T, found scraped) map[string]told {
	t.Helper()
	metrics := map[string]told{}
	label := regexp.MustCompile(`[{,]([a-z_]+)="`)
	for sample := range found.values {
		name, labels, _ := strings.Cut(sample, "{")
		if !strings.HasPrefix(name, "decree_") {
			continue
		}
		if found.types[name] == "" {
			name = regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		}
		metric := told{kind: found.types[name]}
		require.NotEmpty(t, metric.kind, sample)
		for _, match := range label.FindAllStringSubmatch("{"+labels, -1) {
			if match[1] != "le" {
				metric.labels = append(metric.labels, match[1])
			}
		}
		slices.Sort(metric.labels)
		if before, again := metrics[name]; again {
			require.Equal(t, before, metric, sample)
		}
		metrics[name] = metric
	}
	return metrics
}

// TestDocumentsOfMetrics holds what is written about metrics against those that a server tells.
func TestDocumentsOfMetrics(t *testing.T) {
	t.Parallel()
	found := lived(t, databases()[0].flags(t)...).scrapeAll()
	t.Run("operations", func(t *testing.T) { checkGuide(t, found) })
	t.Run("dashboard", func(t *testing.T) { checkDashboard(t, found) })
	t.Run("alerts", func(t *testing.T) { checkAlerts(t, found) })
}

// checkGuide checks that the operations guide has every metric with its type and labels, and no other.
func checkGuide(t *testing.T, found scraped) {
	documented := map[string]told{}
	var outcomes []string
	for _, row := range tableRows(section(t, readDocument(t, "operations.md"), "## Metrics")) {
		name := strings.Trim(row[0], "`")
		if len(row) == 2 {
			outcomes = append(outcomes, name)
			continue
		}
		require.Len(t, row, 4, name)
		metric := told{kind: row[1]}
		for label := range strings.SplitSeq(row[2], ", ") {
			if label != "" {
				metric.labels = append(metric.labels, strings.Trim(label, "`"))
			}
		}
		slices.Sort(metric.labels)
		require.NotEmpty(t, row[3], name)
		documented[name] = metric
	}
	require.Equal(t, documented, metricsOf(t, found))
	require.ElementsMatch(t, notifier.Verdicts, outcomes)
}

var (
	seriesName = regexp.MustCompile(`\b(?:decree|go|process)_[a-z0-9_]+`)
	matcher    = regexp.MustCompile(`\b((?:decree|go|process)_[a-z0-9_]+)\{([^}]*)\}`)
	equality   = regexp.MustCompile(`([a-z_]+)="([^"]*)"`)
)

// requireExpression checks that what an expression asks for is there, and returns the names.
func requireExpression(t *testing.T, found scraped, expression string) []string {
	t.Helper()
	series := found.series()
	names := seriesName.FindAllString(expression, -1)
	require.NotEmpty(t, names, expression)
	for _, name := range names {
		require.True(t, series[name], "%s: there is no %s", expression, name)
	}
	for _, match := range matcher.FindAllStringSubmatch(expression, -1) {
		for _, label := range equality.FindAllStringSubmatch(match[2], -1) {
			there := false
			for sample := range found.values {
				there = there || strings.HasPrefix(sample, match[1]+"{") && strings.Contains(sample, label[0])
			}
			require.True(t, there, "%s: no %s has %s", expression, match[1], label[0])
		}
	}
	for _, pair := range []string{"()", "{}", "[]"} {
		require.Equal(t, strings.Count(expression, pair[:1]), strings.Count(expression, pair[1:]), expression)
	}
	return names
}

// checkDashboard checks that the dashboard shows what there is, all of it, and nothing else.
func checkDashboard(t *testing.T, found scraped) {
	var dashboard struct {
		Panels []struct {
			ID      int
			Type    string
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr, LegendFormat string }
		}
		Templating struct {
			List []struct{ Name, Definition string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(readDocument(t, "deploy/grafana.json")), &dashboard))
	shown, ids := map[string]bool{}, map[int]bool{}
	for _, panel := range dashboard.Panels {
		require.False(t, ids[panel.ID], panel.Title)
		ids[panel.ID] = true
		require.LessOrEqual(t, panel.GridPos.X+panel.GridPos.W, 24, panel.Title)
		require.Equal(t, panel.Type == "row", len(panel.Targets) == 0, panel.Title)
		for _, target := range panel.Targets {
			for _, name := range requireExpression(t, found, target.Expr) {
				shown[regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")] = true
			}
		}
	}
	for name := range metricsOf(t, found) {
		require.True(t, shown[name], "%s is not shown", name)
	}
	require.Len(t, dashboard.Templating.List, 3)
	for _, variable := range dashboard.Templating.List[1:] {
		requireExpression(t, found, variable.Definition)
	}
}

// checkAlerts checks that the alert rules are about what there is.
func checkAlerts(t *testing.T, found scraped) {
	text, err := json.Marshal(parseYAML(t, "deploy/alerts.yaml"))
	require.NoError(t, err)
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr, For string
				Labels           map[string]string
				Annotations      map[string]string
			}
		}
	}
	require.NoError(t, json.Unmarshal(text, &rules))
	require.NotEmpty(t, rules.Groups)
	for _, group := range rules.Groups {
		require.NotEmpty(t, group.Rules)
		for _, rule := range group.Rules {
			require.NotEmpty(t, rule.Annotations["summary"], rule.Alert)
			require.Contains(t, []string{"warning", "critical"}, rule.Labels["severity"], rule.Alert)
			require.Regexp(t, `^[0-9]+[mhd]$`, rule.For)
			if !strings.HasPrefix(rule.Expr, "up{") { // which is Prometheus' own
				requireExpression(t, found, rule.Expr)
			}
		}
	}
}
