package tokenizer

// Decode gives the text of ids without special tokens. Ids outside the vocabulary
// count for nothing, bytes that are not UTF-8 become U+FFFD, as in Hugging Face.
func (t *Tokenizer) Decode(ids []int32) string { return t.decode(ids, false) }

// DecodeRaw is Decode with the special tokens left in.
func (t *Tokenizer) DecodeRaw(ids []int32) string { return t.decode(ids, true) }

func (t *Tokenizer) decode(ids []int32, specials bool) string {
	if t.raw == nil {
		d := Decoder{t: t, specials: specials}
		for _, id := range ids {
			d.push(id)
		}
		return d.Flush()
	}
	b := make([]byte, 0, 4*len(ids))
	for _, id := range ids {
		if t.isText(id, specials) {
			b = append(b, t.raw[id]...)
		}
	}
	return lossy(b)
}

// isText reports whether an id is part of the text.
func (t *Tokenizer) isText(id int32, specials bool) bool {
	return id >= 0 && int(id) < len(t.tokens) && t.tokens[id] != "" && (specials || !t.kind[id].special)
}

// Decoder decodes a stream of ids. The texts it returns, put together, are what
// Decode gives for all ids at once. The zero Decoder is of no use: see NewDecoder.
type Decoder struct {
	t        *Tokenizer
	specials bool
	stages   []stage
	text     []byte // decoded, not returned yet
}

// NewDecoder starts a stream that, like Decode, leaves out special tokens.
func (t *Tokenizer) NewDecoder() *Decoder { return &Decoder{t: t} }

// Push takes the next id and returns the text that is certain by now: a character
// cut over several tokens comes with its last one.
func (d *Decoder) Push(id int32) string {
	d.push(id)
	return d.take()
}

// Flush ends the stream: what was held back is decoded as it is. The Decoder can then be
// used for another stream.
func (d *Decoder) Flush() string {
	for i := range d.stages {
		d.stages[i].flush(func(s string) { d.feed(i+1, s) })
	}
	d.stages = nil
	return d.take()
}

func (d *Decoder) push(id int32) {
	if !d.t.isText(id, d.specials) {
		return
	}
	if d.stages == nil {
		for _, s := range d.t.decoders {
			d.stages = append(d.stages, s())
		}
	}
	d.feed(0, d.t.shown[id])
}

// feed gives a token to stage i.
func (d *Decoder) feed(i int, token string) {
	if i == len(d.stages) {
		d.text = append(d.text, token...)
		return
	}
	d.stages[i].push(token, func(s string) { d.feed(i+1, s) })
}

func (d *Decoder) take() string {
	s := string(d.text)
	d.text = d.text[:0]
	return s
}
