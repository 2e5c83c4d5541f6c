//go:build unix

package weights

import (
	"os"

	"golang.org/x/sys/unix"
)

func mapFile(f *os.File, size int64) ([]byte, error) {
	if int64(int(size)) != size {
		return nil, unix.EFBIG
	}
	return unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
}

func unmapFile(data []byte) error { return unix.Munmap(data) }

// around is data[begin:end] widened to whole pages, and a little more: a fault also maps the pages near it.
func around(data []byte, begin, end, more int64) []byte {
	page := int64(os.Getpagesize())
	begin = max(begin-more, 0) / page * page
	return data[begin:min(end+more, int64(len(data)))]
}

// prefetch asks for the bytes to be read ahead.
func prefetch(data []byte, begin, end int64) {
	_ = unix.Madvise(around(data, begin, end, 0), unix.MADV_WILLNEED) // only a hint
}

// drop takes the pages out of the process; they stay in the page cache as long as the system likes.
func drop(data []byte, begin, end int64) {
	_ = unix.Madvise(around(data, begin, end, 1<<16), unix.MADV_DONTNEED)
}
