package notifier

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/decree-ddm/decree/storage"
)

// send tells the enrollments of a batch, and returns what became of them.
func (n *Notifier) send(ctx context.Context, b *batch) []storage.Outcome {
	ids := make([]string, len(b.members))
	for i, e := range b.members {
		ids[i] = e.ID
	}
	command, err := newCommand(b.data)
	if err != nil {
		n.failed(ctx, "send", err)
		return []storage.Outcome{n.failure(b.members, b.token, "the command could not be made")}
	}
	start := time.Now()
	results, err := n.enqueue(ctx, ids, command)
	log := n.config.Logger.With("command_uuid", command.UUID, "token", b.token, "duration", time.Since(start))
	switch {
	case err != nil && ctx.Err() != nil:
		return givenBack([]*batch{b}) // Stop cut it off
	case err != nil:
		text := truncate(err.Error())
		log.WarnContext(ctx, "command not taken", "enrollments", len(ids), "error", text)
		return n.failures(b.members, b.token, text)
	}
	return n.judge(ctx, log, b, command, results)
}

// enqueue is the one request of a batch.
func (n *Notifier) enqueue(ctx context.Context, ids []string, command Command) (map[string]Result, error) {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	return n.config.MDM.Enqueue(ctx, ids, command)
}

// givenBack returns the outcomes for batches that nobody is known to have been told of: others may take them at once.
func givenBack(batches []*batch) []storage.Outcome {
	outcomes := make([]storage.Outcome, 0, len(batches))
	for _, b := range batches {
		outcome := storage.Outcome{Kind: storage.OutcomePostponed, DesiredToken: b.token}
		for _, e := range b.members {
			outcome.IDs = append(outcome.IDs, e.ID)
		}
		outcomes = append(outcomes, outcome)
	}
	return outcomes
}

// judge sorts the members of a batch by what the MDM said of each.
func (n *Notifier) judge(
	ctx context.Context, log *slog.Logger, b *batch, command Command, results map[string]Result,
) []storage.Outcome {
	sent := map[int][]string{} // by how many commands they have had for this token
	refused := map[string][]*storage.Enrollment{}
	unwoken := 0
	for _, e := range b.members {
		result, answered := results[e.ID]
		if !answered {
			result.CommandError = "the MDM's answer does not speak of it"
		}
		switch {
		case result.CommandError != "":
			text := truncate(result.CommandError)
			refused[text] = append(refused[text], e)
			log.WarnContext(ctx, "command not taken", "enrollment_id", e.ID, "error", text)
			continue
		case result.PushError != "":
			unwoken++
			log.WarnContext(ctx, "device not woken", "enrollment_id", e.ID, "error", truncate(result.PushError))
		}
		sends := 1
		if e.CommandToken == b.token {
			sends = e.Sends + 1
		}
		sent[sends] = append(sent[sends], e.ID)
	}
	var outcomes []storage.Outcome
	for sends, ids := range sent {
		after, spread := n.schedule.afterSend(sends)
		outcomes = append(outcomes, storage.Outcome{
			Kind: storage.OutcomeSent, IDs: ids, DesiredToken: b.token, CommandUUID: command.UUID,
			After: after, Spread: spread,
		})
	}
	refusals := 0
	for text, members := range refused {
		refusals += len(members)
		outcomes = append(outcomes, n.failures(members, b.token, text)...)
	}
	log.InfoContext(ctx, "command sent", "enrollments", len(b.members)-refusals, "refused", refusals, "not_woken", unwoken,
		"with_data", b.data != nil)
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
