package data

import (
	"reflect"
	"testing"
)

func TestConversation(t *testing.T) {
	for _, msgs := range [][]Message{
		{{"user", "Hi"}},
		{{"system", "Be brief."}, {"user", "Hi\nthere"}, {"assistant", "Hello.\n\nWhat is it?"}, {"user", "user: me"}},
		{{"user", ""}, {"assistant", "A prefill"}},
	} {
		if got := Conversation(RenderMessages(msgs)); !reflect.DeepEqual(got, msgs) {
			t.Errorf("%q came back as %q", msgs, got)
		}
	}
	for text, want := range map[string][]Message{
		"\n\nHuman: Hi there\n\nAssistant:":                                       {{"user", "Hi there"}},
		"\n\nHuman: Hi\n\nAssistant: Hello.\n\nMore.\n\nHuman: Bye\n\nAssistant:": {{"user", "Hi"}, {"assistant", "Hello.\n\nMore."}, {"user", "Bye"}},
		"SUBREDDIT: r/x\n\nTL;DR:":                                                {{"user", "SUBREDDIT: r/x\n\nTL;DR:"}},
		"say \n\nHuman: no":                                                       {{"user", "say \n\nHuman: no"}},
		"":                                                                        {{"user", ""}},
	} {
		if got := Conversation(text); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
