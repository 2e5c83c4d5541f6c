package weights

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// pieceBytes is how much of a file is looked at in one go. Pieces are what bounds the memory that reading takes.
const pieceBytes = 4 << 20

// source is a file whose bytes are read in pieces: mapped into memory, or with ReadAt where that cannot be.
type source struct {
	r    io.ReaderAt
	size int64
	file *os.File // nil if r is not a file
	data []byte   // the mapping, nil if there is none
}

// openSource opens a regular file and maps it.
func openSource(path string) (*source, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	s := &source{r: file, size: info.Size(), file: file}
	// Some file systems cannot map, and an empty file has nothing to: ReadAt does instead.
	s.data, _ = mapFile(file, s.size)
	return s, nil
}

func (s *source) close() error {
	if s.data != nil {
		_ = unmapFile(s.data)
		s.data = nil
	}
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

// each cuts the bytes [begin, end) into pieces of whole units and calls use for every one, from a few goroutines at
// once, with the piece's distance from begin. The piece is only valid during the call; its pages leave the process
// with it.
func (s *source) each(begin, end, unit int64, use func(at int64, piece []byte) error) error {
	step := max(pieceBytes/unit, 1) * unit
	pieces := (end - begin + step - 1) / step
	var next atomic.Int64
	var failed atomic.Pointer[error]
	work := func() {
		var scratch []byte
		for failed.Load() == nil {
			i := next.Add(1) - 1
			if i >= pieces {
				return
			}
			at := i * step
			if err := s.piece(begin+at, begin+min(at+step, end-begin), &scratch, func(b []byte) error { return use(at, b) }); err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		}
	}
	if workers := min(pieces, int64(runtime.GOMAXPROCS(0)), 4); workers <= 1 {
		work()
	} else {
		var wg sync.WaitGroup
		for range workers {
			wg.Go(work)
		}
		wg.Wait()
	}
	if err := failed.Load(); err != nil {
		return *err
	}
	return s.holds(end)
}

func (s *source) piece(begin, end int64, scratch *[]byte, use func([]byte) error) (err error) {
	if s.data == nil {
		if int64(cap(*scratch)) < end-begin {
			*scratch = make([]byte, end-begin)
		}
		b := (*scratch)[:end-begin]
		if _, err := s.r.ReadAt(b, begin); err != nil {
			return fmt.Errorf("read at byte %d: %w", begin, err)
		}
		return use(b)
	}
	// A page of the mapping that is no longer in the file, or that the disk cannot give, is a fault, not an error.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(interface{ Addr() uintptr }); !ok {
				panic(p)
			}
			err = fmt.Errorf("bytes %d to %d cannot be read: the file was cut short, or the disk failed", begin, end)
		}
	}()
	prefetch(s.data, begin, end)
	defer drop(s.data, begin, end)
	return use(s.data[begin:end])
}

// holds refuses a file that was cut before end since it was opened: what its last page lacks reads as zeros.
func (s *source) holds(end int64) error {
	if s.file == nil {
		return nil
	}
	info, err := s.file.Stat()
	if err == nil && info.Size() < end {
		err = fmt.Errorf("the file was cut from %d to %d bytes while it was read", s.size, info.Size())
	}
	return err
}
