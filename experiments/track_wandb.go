package experiments

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protowire"
)

// wandbRun writes a run as Weights & Biases' own client does offline: a .wandb file of Record messages
// (wandb/proto/wandb_internal.proto). It is written anew by each attempt, from metrics.jsonl, and so always holds every step
// once.
type wandbRun struct {
	run    tracked
	tail   tail
	note   func(error)
	log    *wandbLog
	last   map[string]any // newest values
	failed bool
}

// Field numbers of Record, and of the messages in it.
const (
	recordNum, recordHistory, recordSummary, recordRun, recordExit, recordHeader = 1, 2, 3, 17, 18, 21

	headerVersion, versionProducer, versionConsumer                       = 1, 1, 2
	runID, runProject, runConfigs, runGroup, runName, runHost, runStarted = 1, 3, 4, 6, 8, 13, 17
	configUpdate, summaryUpdate, historyItem, historyStep, stepNum        = 1, 1, 1, 2, 1
	itemKey, itemJSON                                                     = 1, 16
	timeSeconds, timeNanos, exitCode, exitRuntime                         = 1, 2, 1, 2
)

// path is the directory for `wandb sync`. The start of the run is part of its id, because W&B never takes an id again whose
// run was deleted.
func (w *wandbRun) path() string {
	return filepath.Join(w.run.dir, "wandb", "offline-run-"+w.run.manifest.Started.UTC().Format("20060102_150405")+"-"+w.id())
}

func (w *wandbRun) file() string { return filepath.Join(w.path(), "run-"+w.id()+".wandb") }

// complete says whether the file was written after the run had ended.
func (w *wandbRun) complete() bool {
	file, err := os.Stat(w.file())
	if err != nil {
		return false
	}
	manifest, err := os.Stat(filepath.Join(w.run.dir, "manifest.json"))
	return err == nil && !file.ModTime().Before(manifest.ModTime())
}

func (w *wandbRun) id() string {
	return w.run.manifest.Hash + strconv.FormatInt(w.run.manifest.Started.Unix(), 36)
}

func (w *wandbRun) advance() { w.try(w.write) }

func (w *wandbRun) close(state State) {
	w.try(func() error { return errors.Join(w.write(), w.finish(state)) })
}

// try writes unless that failed before.
func (w *wandbRun) try(write func() error) {
	if w.failed {
		return
	}
	if err := Guard(write); err != nil {
		w.failed = true
		w.note(err)
	}
}

// write appends the steps that metrics.jsonl has got.
func (w *wandbRun) write() error {
	if w.log == nil {
		if err := w.begin(); err != nil {
			return err
		}
	}
	steps, err := w.tail.next()
	if err != nil {
		return err
	}
	for _, s := range steps {
		values := map[string]any{"_step": s.Step.Step, "_timestamp": float64(s.at.UnixMicro()) / 1e6, "_runtime": s.at.Sub(w.run.manifest.Started).Seconds()}
		for k, v := range s.Values {
			values[k] = v
		}
		maps.Copy(w.last, values)
		summary, err := items(nil, summaryUpdate, values)
		if err != nil {
			return err
		}
		history, err := items(nil, historyItem, values)
		if err != nil {
			return err
		}
		history = protoField(history, historyStep, protoField(nil, stepNum, s.Step.Step))
		if err := errors.Join(w.log.record(recordSummary, summary), w.log.record(recordHistory, history)); err != nil {
			return err
		}
	}
	return nil
}

// begin makes the file, with what is known of the run before its first step.
func (w *wandbRun) begin() error {
	dir, m := w.path(), w.run.manifest
	if err := os.MkdirAll(filepath.Join(dir, "files"), 0o755); err != nil {
		return err
	}
	for _, mark := range []string{".synced", ".syncstate"} { // what wandb sync has uploaded is no longer all
		if err := os.Remove(w.file() + mark); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	f, err := os.Create(w.file())
	if err != nil {
		return err
	}
	w.log, w.last = &wandbLog{f: f}, map[string]any{}
	header := protoField(protoField(nil, versionProducer, "gobpo"), versionConsumer, "0.70.0") // as wandb's own files have it
	c := w.run.config
	c.Track = TrackConfig{}
	raw, err := c.YAML()
	if err != nil {
		return err
	}
	var config tree
	if err := yaml.Unmarshal(raw, &config); err != nil {
		return err
	}
	config["hash"], config["method"], config["_wandb"] = m.Hash, m.Method, tree{}
	settings, err := items(nil, configUpdate, config)
	if err != nil {
		return err
	}
	host, _ := os.Hostname()
	run := protoField(protoField(nil, runID, w.id()), runProject, c.Study)
	run = protoField(protoField(protoField(run, runConfigs, settings), runGroup, cut(m.Method, 128)), runName, cut(w.run.name(), 128))
	run = protoField(protoField(run, runHost, host), runStarted, protoField(nil, timeSeconds, int(m.Started.Unix())))
	return errors.Join(w.log.begin(), w.log.record(recordHeader, protoField(nil, headerVersion, header)), w.log.record(recordRun, run))
}

// finish writes the result and how the run ended: 0, 1, or 255 as wandb has it for an interrupt.
func (w *wandbRun) finish(state State) error {
	m, err := ReadManifest(w.run.dir)
	if err != nil {
		return err
	}
	code := map[State]int{Done: 0, Failed: 1, Pending: 255}[state]
	if state == Done {
		final, err := w.run.final()
		if err != nil {
			return err
		}
		for k, v := range final {
			w.last[k] = v
		}
	}
	w.last["_wandb"] = map[string]int{"runtime": int(m.Seconds)}
	summary, err := items(nil, summaryUpdate, w.last)
	if err != nil {
		return err
	}
	exit := protoField(protoField(nil, exitCode, code), exitRuntime, int(m.Seconds))
	return errors.Join(w.log.record(recordSummary, summary), w.log.record(recordExit, exit), w.log.f.Sync(), w.log.f.Close())
}

// items appends keys and values as JSON, sorted by key. ConfigItem, SummaryItem and HistoryItem are alike in that.
func items[V any](b []byte, num protowire.Number, values map[string]V) ([]byte, error) {
	for _, k := range slices.Sorted(maps.Keys(values)) {
		raw, err := json.Marshal(values[k])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k, err)
		}
		b = protoField(b, num, protoField(protoField(nil, itemKey, k), itemJSON, raw))
	}
	return b, nil
}

// protoField appends a field of a protobuf message: text, bytes (a message too), or a whole number.
func protoField[V string | []byte | int](b []byte, num protowire.Number, value V) []byte {
	switch v := any(value).(type) {
	case string:
		return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), v)
	case []byte:
		return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), v)
	default:
		return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), uint64(v.(int)))
	}
}

// wandbLog is a file in the format of LevelDB's logs: blocks of 32 KiB, which no fragment of a record crosses.
type wandbLog struct {
	f    *os.File
	size int
	num  int
}

const wandbBlock, wandbHeader = 32 << 10, 7

// Types of fragments.
const wandbFull, wandbFirst, wandbMiddle, wandbLast = 1, 2, 3, 4

// begin writes the file's header: identity, magic number, version.
func (l *wandbLog) begin() error {
	n, err := l.f.Write([]byte(":W&B\xe1\xbe\x00"))
	l.size = n
	return err
}

// record appends a Record that holds one message, in one write.
func (l *wandbLog) record(num protowire.Number, message []byte) error {
	l.num++
	data := protoField(protoField(nil, recordNum, l.num), num, message)
	var out []byte
	for first := true; first || len(data) > 0; first = false {
		left := wandbBlock - (l.size+len(out))%wandbBlock
		if left < wandbHeader {
			out = append(out, make([]byte, left)...)
			left = wandbBlock
		}
		n, kind := min(len(data), left-wandbHeader), byte(wandbMiddle)
		switch whole := n == len(data); {
		case first && whole:
			kind = wandbFull
		case first:
			kind = wandbFirst
		case whole:
			kind = wandbLast
		}
		// Unlike LevelDB's, the checksum is the IEEE one, not masked.
		crc := crc32.Update(crc32.ChecksumIEEE([]byte{kind}), crc32.IEEETable, data[:n])
		out = binary.LittleEndian.AppendUint32(out, crc)
		out = binary.LittleEndian.AppendUint16(out, uint16(n))
		out = append(append(out, kind), data[:n]...)
		data = data[n:]
	}
	n, err := l.f.Write(out)
	l.size += n
	return err
}
