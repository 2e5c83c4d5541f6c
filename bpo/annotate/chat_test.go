package annotate

import (
	"testing"
	"time"
)

// Each wait is around its own length, no two alike, and no longer than half again as the cap.
func TestWaits(t *testing.T) {
	drawn := map[time.Duration]bool{}
	for range 100 {
		w := newWaits()
		for i, want := range []time.Duration{500 * time.Millisecond, 2 * time.Second, 8 * time.Second, 32 * time.Second, time.Minute, time.Minute, time.Minute} {
			got := w.NextBackOff()
			if got < want/2 || got > want*3/2+1 {
				t.Errorf("wait %d is %v, want %v ± half", i, got, want)
			}
			drawn[got] = true
		}
	}
	if len(drawn) < 600 {
		t.Errorf("%d different waits of 700", len(drawn))
	}
	w := newWaits()
	for i, atLeast := range []time.Duration{0, 20 * time.Second, 0, time.Minute} { // between 0.25 and 0.75, 1 and 3, 4 and 12, 16 and 48 s by themselves
		w.atLeast = atLeast
		if got := w.NextBackOff(); got < atLeast || got < 250*time.Millisecond<<(2*i) || atLeast > 0 && got != atLeast {
			t.Errorf("wait %d, at least %v, is %v", i, atLeast, got)
		}
	}
}
