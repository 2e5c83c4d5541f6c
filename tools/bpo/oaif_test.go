package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"gobpo/data"
	"gobpo/experiments"
)

// OAIF (arXiv 2402.04792): pairs are collected at every step from the policy as it is, and a judge behind an endpoint labels
// them. This one prefers the text that is greater, asked in both orders; it must have been asked about every pair that was
// trained on, and its answers must be the labels.
func TestOAIFTrainsOnAJudgesLabels(t *testing.T) {
	dir := tinyDir(t)
	var mu sync.Mutex
	asked := map[[2]string]bool{}
	judge := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct{ Messages []struct{ Content string } }
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		texts := strings.Split(q.Messages[0].Content, "|")
		a, b := texts[1], texts[2]
		mu.Lock()
		asked[[2]string{a, b}] = true
		mu.Unlock()
		answer := "Preferred: B"
		if a > b {
			answer = "Preferred: A"
		}
		_ = json.NewEncoder(w).Encode(map[string]any{
			"choices": []any{map[string]any{"message": map[string]any{"role": "assistant", "content": answer}}},
			"usage":   map[string]any{"prompt_tokens": 10, "completion_tokens": 2},
		})
	}))
	defer judge.Close()
	if err := os.WriteFile(filepath.Join(dir, "question.tmpl"), []byte("{{.Prompt}}|{{.A}}|{{.B}}|"), 0o644); err != nil {
		t.Fatal(err)
	}
	annotator := fmt.Sprintf(`annotator={name: judge, endpoint: "%s/v1", model: m, template: %s, cache: none}`, judge.URL, filepath.Join(dir, "question.tmpl"))
	_, stderr, status := cli(t, dir, "", "train", "tiny.yaml", "--set", "sweep={}", "--set", "refresh=2", "--set", "reference=sft", "--set", annotator, "--out", "runs")
	if status != 0 {
		t.Fatal(stderr)
	}
	shards, _ := filepath.Glob(filepath.Join(dir, "runs", "tiny", "*", "pairs", "*", "*.parquet"))
	if len(shards) != 2 { // T = F = 2
		t.Fatalf("shards %v", shards)
	}
	pairs := 0
	for _, shard := range shards {
		rows, err := data.Read[data.Preference](shard)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range rows {
			pairs++
			if p.Chosen == p.Rejected {
				continue // a tie, drawn
			}
			if p.Chosen < p.Rejected {
				t.Errorf("%s: %q was preferred to %q", filepath.Base(shard), p.Chosen, p.Rejected)
			}
			if !asked[[2]string{p.Chosen, p.Rejected}] || !asked[[2]string{p.Rejected, p.Chosen}] {
				t.Errorf("the judge was not asked about %q and %q in both orders", p.Chosen, p.Rejected)
			}
		}
	}
	if pairs != 8 {
		t.Errorf("%d pairs, want 2 steps of 4", pairs)
	}
	logs, _ := filepath.Glob(filepath.Join(dir, "runs", "tiny", "*", "metrics.jsonl"))
	if len(logs) != 1 {
		t.Fatalf("logs %v", logs)
	}
	steps, err := experiments.ReadMetrics(logs[0])
	if err != nil {
		t.Fatal(err)
	}
	most := 0.0
	for _, s := range steps {
		most = max(most, s.Values["judge/requests"])
	}
	if most == 0 {
		t.Error("the metrics have no judge/requests")
	}
}
