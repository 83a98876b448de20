//go:build bench

package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestFiguresRecipes measures how long after its delivery a certificate is
// served, under a load of new connections.
func TestFiguresRecipes(t *testing.T) {
	rows := []string{"server | new connections, failed | new serial served after its delivery, longest of 5 | required"}
	for _, r := range recipes {
		t.Run(r.page, func(t *testing.T) {
			ca, s := newRecipeCA(t), newServer(t, r)
			d := s.deliverer(s.yaml)
			d.deliver(t, ca.issue())
			s.up(ca.pool)
			d.start(t)
			d.settled(t, s, stateProven)
			took := rotate(t, s, d, ca, 5)
			d.stop()
			s.down()
			worst := slices.Max(took)
			rows = append(rows, fmt.Sprintf("%s | 0 | %v | 2s", r.page, worst))
			if worst > 2*time.Second {
				t.Errorf("%v", took)
			}
		})
	}
	t.Log("\n" + strings.Join(rows, "\n"))
}
