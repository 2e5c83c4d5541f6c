package experiments

import (
	"reflect"
	"testing"
)

func TestSpent(t *testing.T) {
	annotated := []point{{x: 1, y: 64}, {x: 5, y: 32}}
	evaluated := []point{{x: 0, y: 0.2}, {x: 2, y: 0.3}, {x: 4, y: 0.4}, {x: 6, y: 0.5}, {x: 8, y: 0.6}}
	want := []point{{x: 64, y: 0.4}, {x: 96, y: 0.6}}
	if got := spent(annotated, evaluated); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
