package weights

import (
	"testing"

	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/shapes"
)

func TestCutShards(t *testing.T) {
	all := map[string]shapes.Shape{}
	for _, name := range []string{"a", "b", "c", "d"} {
		all[name] = shapes.Make(dtypes.Float32, 10)
	}
	all["c"] = shapes.Make(dtypes.Float32, 100) // more than a shard holds
	got := cutShards(all, 80)
	if len(got) != 3 || len(got[0]) != 2 || len(got[1]) != 1 || len(got[2]) != 1 {
		t.Errorf("shards %v", got)
	}
}
