package experiments

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// eventFile is a TensorBoard event file: TFRecords of Event messages (tensorflow/core/util/event.proto).
type eventFile struct{ f *os.File }

// Field numbers of Event, Summary, Summary.Value and SessionLog.
const (
	eventTime, eventStep, eventVersion, eventSummary, eventSession = 1, 2, 3, 5, 7
	summaryValue, valueTag, valueSimple, sessionStatus             = 1, 1, 2, 1
)

// newEventFile makes a new file in dir for events from a step on. Each attempt at a run has its own, because TensorBoard
// follows files that grow; the session start tells it to forget what an earlier attempt wrote for these steps.
func newEventFile(dir string, step int) (*eventFile, error) {
	now := time.Now()
	f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("events.out.tfevents.%010d.%d.gobpo", now.Unix(), now.UnixNano()%1e9)), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	e := &eventFile{f}
	version := protowire.AppendString(protowire.AppendTag(event(0), eventVersion, protowire.BytesType), "brain.Event:2")
	session := protowire.AppendVarint(protowire.AppendTag(nil, sessionStatus, protowire.VarintType), 1) // START
	start := protowire.AppendBytes(protowire.AppendTag(event(step), eventSession, protowire.BytesType), session)
	for _, raw := range [][]byte{version, start} {
		if err == nil {
			err = e.write(raw)
		}
	}
	return e, err
}

// event begins an Event message.
func event(step int) []byte {
	now := float64(time.Now().UnixNano()) / 1e9
	raw := protowire.AppendFixed64(protowire.AppendTag(nil, eventTime, protowire.Fixed64Type), math.Float64bits(now))
	return protowire.AppendVarint(protowire.AppendTag(raw, eventStep, protowire.VarintType), uint64(step))
}

// append writes the scalars of a step.
func (e *eventFile) append(step int, values map[string]float64) error {
	var summary []byte
	for _, tag := range slices.Sorted(maps.Keys(values)) {
		value := protowire.AppendString(protowire.AppendTag(nil, valueTag, protowire.BytesType), tag)
		value = protowire.AppendFixed32(protowire.AppendTag(value, valueSimple, protowire.Fixed32Type), math.Float32bits(float32(values[tag])))
		summary = protowire.AppendBytes(protowire.AppendTag(summary, summaryValue, protowire.BytesType), value)
	}
	return e.write(protowire.AppendBytes(protowire.AppendTag(event(step), eventSummary, protowire.BytesType), summary))
}

// write appends a TFRecord, in one write: length, its checksum, data, its checksum.
func (e *eventFile) write(data []byte) error {
	record := binary.LittleEndian.AppendUint64(nil, uint64(len(data)))
	record = binary.LittleEndian.AppendUint32(record, maskedCRC(record))
	record = append(record, data...)
	_, err := e.f.Write(binary.LittleEndian.AppendUint32(record, maskedCRC(data)))
	return err
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// maskedCRC is TFRecord's checksum: CRC-32C, rotated and shifted so that a checksum of checksums is no trap.
func maskedCRC(data []byte) uint32 {
	crc := crc32.Checksum(data, castagnoli)
	return (crc>>15 | crc<<17) + 0xa282ead8
}
