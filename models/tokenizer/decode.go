package tokenizer

// Decode gives the text of ids without special tokens. Ids outside the vocabulary
// count for nothing, bytes that are not UTF-8 become U+FFFD, as in Hugging Face.
func (t *Tokenizer) Decode(ids []int32) string { return t.decode(ids, false) }

// DecodeRaw is Decode with the special tokens left in.
func (t *Tokenizer) DecodeRaw(ids []int32) string { return t.decode(ids, true) }

func (t *Tokenizer) decode(ids []int32, specials bool) string {
	b := make([]byte, 0, 4*len(ids))
	for _, id := range ids {
		b = append(b, t.bytes(id, specials)...)
	}
	return lossy(b)
}

func (t *Tokenizer) bytes(id int32, specials bool) string {
	if id < 0 || int(id) >= len(t.raw) || !specials && t.kind[id].special {
		return ""
	}
	return t.raw[id]
}

// Decoder decodes a stream of ids. The texts it returns, put together, are what
// Decode gives for all ids at once. The zero Decoder is of no use: see NewDecoder.
type Decoder struct {
	t        *Tokenizer
	specials bool
	held     []byte // start of a character whose end has not come yet
}

// NewDecoder starts a stream that, like Decode, leaves out special tokens.
func (t *Tokenizer) NewDecoder() *Decoder { return &Decoder{t: t} }

// Push takes the next id and returns the text that is certain by now: a character
// cut over several tokens comes with its last one.
func (d *Decoder) Push(id int32) string {
	b := append(d.held, d.t.bytes(id, d.specials)...)
	text, rest := complete(nil, b)
	d.held = append(d.held[:0], rest...)
	return string(text)
}

// Flush ends the stream: what was held back becomes U+FFFD. The Decoder can then be
// used for another stream.
func (d *Decoder) Flush() string {
	text := lossy(d.held)
	d.held = d.held[:0]
	return text
}
