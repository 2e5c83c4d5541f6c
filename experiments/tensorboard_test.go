package experiments

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// readEvents parses what TensorBoard would read: each record's step and scalars, checksums verified.
func readEvents(t *testing.T, path string) (steps []int, values []map[string]float64) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for len(raw) > 0 {
		n := binary.LittleEndian.Uint64(raw)
		data := raw[12 : 12+n]
		if maskedCRC(raw[:8]) != binary.LittleEndian.Uint32(raw[8:]) || maskedCRC(data) != binary.LittleEndian.Uint32(raw[12+n:]) {
			t.Fatalf("%s: a checksum is wrong", path)
		}
		raw = raw[16+n:]
		fields := map[protowire.Number][]byte{}
		step := 0
		each(t, data, func(num protowire.Number, value []byte, varint uint64) {
			fields[num] = value
			if num == eventStep {
				step = int(varint)
			}
		})
		steps, values = append(steps, step), append(values, map[string]float64{})
		each(t, fields[eventSummary], func(_ protowire.Number, value []byte, _ uint64) {
			tag, x := "", 0.0
			each(t, value, func(num protowire.Number, value []byte, bits uint64) {
				if num == valueTag {
					tag = string(value)
				} else {
					x = float64(math.Float32frombits(uint32(bits)))
				}
			})
			values[len(values)-1][tag] = x
		})
	}
	return steps, values
}

func each(t *testing.T, raw []byte, see func(num protowire.Number, value []byte, number uint64)) {
	t.Helper()
	for len(raw) > 0 {
		num, kind, n := protowire.ConsumeTag(raw)
		raw = raw[n:]
		var value []byte
		var number uint64
		switch kind {
		case protowire.BytesType:
			value, n = protowire.ConsumeBytes(raw)
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(raw)
		case protowire.Fixed64Type:
			number, n = protowire.ConsumeFixed64(raw)
		case protowire.Fixed32Type:
			var x uint32
			x, n = protowire.ConsumeFixed32(raw)
			number = uint64(x)
		}
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		see(num, value, number)
		raw = raw[n:]
	}
}

// twoAttempts is a run of two steps that died in its second and was resumed after its first.
func twoAttempts(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, attempt := range []struct {
		from int
		loss map[int]float64
	}{{0, map[int]float64{1: 0.5, 2: 9}}, {1, map[int]float64{2: 0.25, 3: math.NaN()}}} {
		l, err := OpenMetrics(filepath.Join(dir, "metrics.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Rewind(attempt.from); err != nil {
			t.Fatal(err)
		}
		for step := attempt.from + 1; step <= attempt.from+2; step++ {
			if err := l.Append(step, map[string]float64{"loss": attempt.loss[step], "rewards/margins": 1}); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestEventFiles(t *testing.T) {
	dir := twoAttempts(t)
	files, err := filepath.Glob(filepath.Join(dir, "events.out.tfevents.*"))
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, %v", files, err)
	}
	steps, values := readEvents(t, files[1])
	if want := []int{0, 2, 2, 3}; !reflect.DeepEqual(steps, want) {
		t.Errorf("steps %v, want %v", steps, want)
	}
	if want := map[string]float64{"loss": 0.25, "rewards/margins": 1}; !reflect.DeepEqual(values[2], want) {
		t.Errorf("step 2 has %v, want %v", values[2], want)
	}
	if !math.IsNaN(values[3]["loss"]) {
		t.Errorf("step 3 has %v", values[3])
	}
}

// The checksum of RFC 3720's test vector, masked by hand.
func TestMaskedCRC(t *testing.T) {
	crc := uint32(0x8a9136aa) // of 32 zero bytes
	if got := maskedCRC(make([]byte, 32)); got != (crc>>15|crc<<17)+0xa282ead8 {
		t.Errorf("%08x", got)
	}
}

// TensorBoard's own reader sees each step once, the second attempt's where both wrote it.
func TestTensorBoardReads(t *testing.T) {
	python := os.Getenv("GOBPO_PYTHON")
	if python == "" {
		python = "python3"
	}
	if err := exec.Command(python, "-c", "import tensorboard").Run(); err != nil {
		t.Skipf("%s cannot import tensorboard (pip install tensorboard, or set GOBPO_PYTHON)", python)
	}
	out, err := exec.Command(python, "-c", `
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
a = EventAccumulator(sys.argv[1]).Reload()
print(json.dumps({t: [[e.step, e.value] for e in a.Scalars(t)] for t in a.Tags()["scalars"] if t != "loss"} | {"steps": [e.step for e in a.Scalars("loss")], "first": a.Scalars("loss")[1].value}))
`, twoAttempts(t)).Output()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Steps   []int
		First   float64
		Margins [][]float64 `json:"rewards/margins"`
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.Steps, []int{1, 2, 3}) || got.First != 0.25 || !reflect.DeepEqual(got.Margins, [][]float64{{1, 1}, {2, 1}, {3, 1}}) {
		t.Errorf("%s", out)
	}
}
