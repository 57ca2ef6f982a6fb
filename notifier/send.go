package notifier

import (
	"context"
	"errors"
	"log/slog"
	"math/bits"
	"strings"
	"time"

	"github.com/decree-ddm/decree/http/trace"
	"github.com/decree-ddm/decree/storage"
)

// send makes the requests that a batch needs, and returns what became of its members. It begins none after a time.
func (n *Notifier) send(ctx context.Context, b *batch, until time.Time) []storage.Outcome {
	s := &sender{Notifier: n, until: until, since: n.breaker.count()}
	if b.action == push {
		return s.push(ctx, b)
	}
	return s.enqueue(ctx, b)
}

// sender makes the requests for one batch.
type sender struct {
	*Notifier
	until  time.Time // no request is begun after it: the lease is about to end
	since  int64     // how many requests the MDM had answered when that was last looked at
	failed int       // requests of this batch that the MDM refused in a row
	works  bool      // the MDM was found to work although it refuses
	broken bool      // it was found not to work, and is not asked for the rest of the batch
}

// enqueue has a command queued for a batch. Where the MDM works and queues nothing of it, one of its members may be the
// cause, so it is halved until that one is alone.
func (s *sender) enqueue(ctx context.Context, b *batch) []storage.Outcome {
	if s.broken || s.late() {
		return givenBack([]*batch{b})
	}
	command, err := newCommand(b.data)
	if err != nil {
		return []storage.Outcome{s.failure(b.members, b.token, "the command could not be made")}
	}
	log := s.config.Logger.With("command_uuid", command.UUID, "token", b.token)
	results, log, err := s.request(ctx, log, requestEnqueue, func(ctx context.Context) (map[string]Result, error) {
		return s.config.MDM.Enqueue(ctx, b.ids(), command)
	})
	var refused *RefusedError
	switch {
	case err == nil:
		s.breaker.succeeded()
		s.failed = 0
		return s.judge(ctx, log, b, command, results)
	case ctx.Err() != nil:
		return givenBack([]*batch{b}) // Stop cut it off
	case !errors.As(err, &refused):
		return s.down(ctx, log, b, err, err.Error())
	}
	if s.late() {
		// They are spread, so that the one that is the cause soon is among others.
		return []storage.Outcome{{
			Kind: storage.OutcomeUndone, IDs: b.ids(), DesiredToken: b.token, Error: truncate(refused.Text),
			After: s.schedule.retry / 2, Spread: s.schedule.retry,
		}}
	}
	if err := s.working(ctx, len(b.members)); err != nil {
		if ctx.Err() != nil {
			return givenBack([]*batch{b})
		}
		return s.down(ctx, log, b, err, refused.Text)
	}
	if len(b.members) == 1 {
		log.WarnContext(ctx, "command not taken", "enrollment_id", b.members[0].ID, "error", truncate(refused.Text))
		return s.failures(b.members, b.token, truncate(refused.Text))
	}
	half := len(b.members) / 2
	first, second := *b, *b
	first.members, second.members = b.members[:half], b.members[half:]
	return append(s.enqueue(ctx, &first), s.enqueue(ctx, &second)...)
}

// late reports whether no request is to be begun any more.
func (s *sender) late() bool { return time.Now().After(s.until) }

// working decides whether an MDM that refuses a request for so many enrollments works for others, and returns nil if so:
// it has answered others meanwhile, or says so itself. An MDM whose own database is down refuses everything, and is not
// asked for each enrollment by itself.
func (s *sender) working(ctx context.Context, members int) error {
	s.failed++
	if answered := s.breaker.count(); answered > s.since {
		s.since, s.works = answered, true
		return nil
	}
	if s.works && s.failed <= 2*bits.Len(uint(members)) {
		return nil
	}
	err := s.probe(ctx)
	s.works, s.failed = err == nil, 0
	return err
}

// probe asks the MDM whether it works.
func (s *sender) probe(ctx context.Context) error {
	_, _, err := s.request(ctx, s.config.Logger, requestProbe, func(ctx context.Context) (map[string]Result, error) {
		return nil, s.config.MDM.Probe(ctx)
	})
	if err == nil {
		s.breaker.succeeded()
		s.since = s.breaker.count()
	}
	return err
}

// down notes that the MDM does not work: that is no fault of the enrollments, which are tried again when it is.
func (s *sender) down(ctx context.Context, log *slog.Logger, b *batch, err error, text string) []storage.Outcome {
	s.broken = true
	text = truncate(text)
	wait := s.breaker.failed(err)
	log.WarnContext(ctx, "the MDM does not work", "enrollments", len(b.members), "error", text, "retry_in", wait)
	// They are tried again when it works: how often they are tried until then is the breaker's business.
	return []storage.Outcome{{
		Kind: storage.OutcomeUndone, IDs: b.ids(), DesiredToken: b.token, Error: text,
		After: max(wait, s.schedule.retry/2), Spread: s.schedule.retry,
	}}
}

// push has the members of a batch woken.
func (s *sender) push(ctx context.Context, b *batch) []storage.Outcome {
	log := s.config.Logger.With("token", b.token)
	results, log, err := s.request(ctx, log, requestPush, func(ctx context.Context) (map[string]Result, error) {
		return s.config.MDM.Push(ctx, b.ids())
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return givenBack([]*batch{b})
	case err != nil:
		return s.down(ctx, log, b, err, err.Error())
	}
	var outcomes []storage.Outcome
	woken := storage.Outcome{Kind: storage.OutcomePushed, DesiredToken: b.token, After: s.schedule.check}
	for _, e := range b.members {
		result, answered := results[e.ID]
		if !answered {
			result.PushError = notAnswered
		}
		if text := truncate(result.PushError); text != "" {
			outcomes = append(outcomes, s.unwoken(ctx, log, storage.OutcomePushed, e, b.token, text))
			continue
		}
		woken.IDs = append(woken.IDs, e.ID)
	}
	if len(woken.IDs) > 0 {
		s.breaker.succeeded()
	} else if !s.late() {
		if err := s.probe(ctx); err != nil && ctx.Err() == nil { // its database may be down
			return s.down(ctx, log, b, err, err.Error())
		}
	}
	log.InfoContext(ctx, "devices woken", "enrollments", len(woken.IDs), "not_woken", len(outcomes))
	if len(woken.IDs) > 0 {
		outcomes = append(outcomes, woken)
	}
	return outcomes
}

// unwoken is the outcome for an enrollment whose command is queued and whose device could not be woken: only that is
// tried again.
func (s *sender) unwoken(
	ctx context.Context, log *slog.Logger, kind storage.OutcomeKind, e *storage.Enrollment, token, text string,
) storage.Outcome {
	log.DebugContext(ctx, "device not woken", "enrollment_id", e.ID, "error", text)
	failures := 1
	if kind == storage.OutcomePushed {
		failures = e.PushFailures + 1
	}
	after, spread := s.schedule.afterFailure(failures)
	return storage.Outcome{
		Kind: kind, IDs: []string{e.ID}, DesiredToken: token, Error: text, After: after, Spread: spread,
	}
}

// request bounds one request to the MDM, and makes it a trace of its own: a batch is for many changes. The logger that it
// returns knows the trace and how long it took.
func (s *sender) request(
	ctx context.Context, log *slog.Logger, name string, do func(context.Context) (map[string]Result, error),
) (map[string]Result, *slog.Logger, error) {
	t, start := trace.New(), time.Now()
	bounded, cancel := context.WithTimeout(trace.With(ctx, t), sendTimeout)
	defer cancel()
	results, err := do(bounded)
	duration := time.Since(start)
	s.asked(ctx, name, err, duration)
	return results, log.With("trace_id", t.ID(), "duration", duration), err
}

// notAnswered is the error of an enrollment that the MDM said nothing of.
const notAnswered = "the MDM's answer does not speak of it"

// judge sorts the members of a batch by what the MDM said of each.
func (s *sender) judge(
	ctx context.Context, log *slog.Logger, b *batch, command Command, results map[string]Result,
) []storage.Outcome {
	var outcomes []storage.Outcome
	sent := map[int][]string{} // by how many commands they have had for this token
	refused := map[string][]*storage.Enrollment{}
	unwoken := 0
	for _, e := range b.members {
		result, answered := results[e.ID]
		if !answered {
			result.CommandError = notAnswered
		}
		if text := truncate(result.CommandError); text != "" {
			refused[text] = append(refused[text], e)
			log.WarnContext(ctx, "command not taken", "enrollment_id", e.ID, "error", text)
			continue
		}
		if text := truncate(result.PushError); text != "" {
			unwoken++
			outcome := s.unwoken(ctx, log, storage.OutcomeSent, e, b.token, text)
			outcome.CommandUUID = command.UUID
			outcomes = append(outcomes, outcome)
			continue
		}
		sends := 1
		if e.CommandToken == b.token {
			sends = e.Sends + 1
		}
		sent[sends] = append(sent[sends], e.ID)
	}
	for sends, ids := range sent {
		after, spread := s.schedule.afterSend(sends)
		outcomes = append(outcomes, storage.Outcome{
			Kind: storage.OutcomeSent, IDs: ids, DesiredToken: b.token, CommandUUID: command.UUID,
			After: after, Spread: spread,
		})
	}
	refusals := 0
	for text, members := range refused {
		refusals += len(members)
		outcomes = append(outcomes, s.failures(members, b.token, text)...)
	}
	s.told.add(len(b.members) - refusals)
	log.InfoContext(ctx, "command sent", "enrollments", len(b.members)-refusals, "refused", refusals,
		"not_woken", unwoken, "with_data", b.data != nil)
	return outcomes
}

// givenBack returns the outcomes for batches that nobody is known to have been told of: others may take them at once.
func givenBack(batches []*batch) []storage.Outcome {
	outcomes := make([]storage.Outcome, 0, len(batches))
	for _, b := range batches {
		outcomes = append(outcomes, storage.Outcome{
			Kind: storage.OutcomePostponed, DesiredToken: b.token, IDs: b.ids(),
		})
	}
	return outcomes
}

// failures returns the outcomes for enrollments that failed for one reason: each backs off for itself.
func (n *Notifier) failures(members []*storage.Enrollment, token, text string) []storage.Outcome {
	byAttempts := map[int][]*storage.Enrollment{}
	for _, e := range members {
		byAttempts[e.Attempts] = append(byAttempts[e.Attempts], e)
	}
	var outcomes []storage.Outcome
	for _, same := range byAttempts {
		outcomes = append(outcomes, n.failure(same, token, text))
	}
	return outcomes
}

// maxErrorBytes bounds the error that is kept for an enrollment, and logged: it is another server's text.
const maxErrorBytes = 1000

// failure returns the outcome for enrollments that failed equally often before.
func (n *Notifier) failure(members []*storage.Enrollment, token, text string) storage.Outcome {
	after, spread := n.schedule.afterFailure(members[0].Attempts + 1)
	outcome := storage.Outcome{
		Kind: storage.OutcomeFailed, DesiredToken: token, Error: text, After: after, Spread: spread,
	}
	for _, e := range members {
		outcome.IDs = append(outcome.IDs, e.ID)
	}
	return outcome
}

func truncate(text string) string {
	if len(text) > maxErrorBytes {
		text = text[:maxErrorBytes] + "…"
	}
	return strings.ToValidUTF8(text, "")
}
