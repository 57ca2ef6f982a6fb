package main

import (
	"github.com/decree-ddm/decree/cmd/decree/metric"
	"github.com/decree-ddm/decree/http/api"
	"github.com/decree-ddm/decree/storage/census"
	"github.com/decree-ddm/decree/storage/compositor"
)

// registerMetrics serves the numbers. At an address of their own they need no key; elsewhere those whom they are not for can
// reach them too.
func (p *program) registerMetrics(config *config, composer *compositor.Compositor, keys *api.Keyring) {
	p.census = census.New(census.Config{Enrollments: p.store, Logger: p.logger})
	p.metrics.Register(
		metric.NewState(metric.State{
			Caches: composer.Caches, Store: p.store.Stats, Bodies: p.sites.bodies.Stats, Connections: p.sites.connectionStats,
			Breaker: p.notifier.Breaker, Census: p.census.Latest,
		}),
		metric.NewNumbers(p.store, p.logger),
	)
	for _, site := range p.sites.all() {
		site.mux.Observe(p.metrics)
	}
	handler := p.metrics.Handler(p.logger)
	if config.listen.metrics == "" {
		handler = api.Authorized(keys, handler)
	}
	p.sites.metrics.mux.Handle("GET /metrics", handler)
}
