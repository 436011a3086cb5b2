// Command clients is the programs of three Go clients; tests/README.md says what they are told and tell.
// clients sarama|kafka-go|franz-go BOOTSTRAP PREFIX RECORDS; a line "ok CASE" or "FAIL CASE: reason" for each codec.
// clients sarama|kafka-go|franz-go group BOOTSTRAP TOPIC GROUP; a member of the group, see group.go.
// clients sarama|kafka-go|franz-go produce BOOTSTRAP TOPIC CODEC; sends what it is asked to, see produce.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

const partitions = 3

var codecs = []string{"none", "gzip", "snappy", "lz4", "zstd"}

// header is one record header; a key may come twice.
type header struct{ key, value string }

func key(i int) string   { return fmt.Sprintf("key %d", i) }
func value(i int) string { return strings.Repeat(fmt.Sprintf("value %d ", i), 1+i%7) }
func headers(i int) []header {
	return []header{{"n", strconv.Itoa(i)}, {"n", "again"}}
}

// expect fails when what was read at an offset is not what was written there.
func expect(partition int, following, offset int64, gotKey, gotValue string, got []header) error {
	i := int(following)*partitions + partition
	same := offset == following && gotKey == key(i) && gotValue == value(i) && len(got) == 2
	for n, wanted := range headers(i) {
		same = same && got[n] == wanted
	}
	if !same {
		return fmt.Errorf("partition %d: offset %d holds %q with %v, wanted record %d", partition, offset, gotKey, got, i)
	}
	return nil
}

// client is what one library can do here.
type client struct {
	roundTrip func(ctx context.Context, bootstrap, topic, codec string, records int) error
	member    func(ctx context.Context, bootstrap, topic, group string) error
	produce   func(bootstrap, topic, codec string) error
}

var clients = map[string]client{
	"sarama":   {saramaRoundTrip, saramaMember, saramaProduceAsked},
	"kafka-go": {kafkaGoRoundTrip, kafkaGoMember, kafkaGoProduceAsked},
	"franz-go": {franzRoundTrip, franzMember, franzProduceAsked},
}

func run(words []string) error {
	if len(words) < 4 || clients[words[0]].member == nil {
		return errors.New("usage: clients sarama|kafka-go|franz-go BOOTSTRAP PREFIX RECORDS | group BOOTSTRAP TOPIC GROUP | produce BOOTSTRAP TOPIC CODEC")
	}
	of := clients[words[0]]
	switch {
	case len(words) == 5 && words[1] == "group":
		return of.member(untilInputEnds(), words[2], words[3], words[4])
	case len(words) == 5 && words[1] == "produce":
		return of.produce(words[2], words[3], words[4])
	}
	records, err := strconv.Atoi(words[3])
	if err != nil {
		return err
	}
	return roundTrips(of, words[1], words[2], records)
}

func roundTrips(of client, bootstrap, prefix string, records int) error {
	failed := 0
	for _, codec := range codecs {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if err := of.roundTrip(ctx, bootstrap, prefix+"-"+codec, codec, records); err != nil {
			failed++
			fmt.Printf("FAIL %s: %v\n", codec, err)
		} else {
			fmt.Printf("ok %s\n", codec)
		}
		cancel()
	}
	if failed > 0 {
		return fmt.Errorf("%d codecs failed", failed)
	}
	return nil
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
