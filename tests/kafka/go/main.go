// Command clients writes and reads back records with one of three Go clients:
// clients sarama|kafka-go|franz-go BOOTSTRAP PREFIX RECORDS; a line "ok CASE" or "FAIL CASE: reason" for each codec.
// clients sarama|kafka-go|franz-go group BOOTSTRAP TOPIC GROUP; a member of the group, see group.go.
package main

import (
	"context"
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

func main() {
	clients := map[string]func(context.Context, string, string, string, int) error{
		"sarama": saramaRoundTrip, "kafka-go": kafkaGoRoundTrip, "franz-go": franzRoundTrip,
	}
	members := map[string]func(context.Context, string, string, string) error{"sarama": saramaMember, "kafka-go": kafkaGoMember, "franz-go": franzMember}
	if len(os.Args) == 6 && os.Args[2] == "group" && members[os.Args[1]] != nil {
		if err := members[os.Args[1]](untilInputEnds(), os.Args[3], os.Args[4], os.Args[5]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) != 5 || clients[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: clients sarama|kafka-go|franz-go BOOTSTRAP PREFIX RECORDS")
		os.Exit(2)
	}
	records, err := strconv.Atoi(os.Args[4])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	failed := 0
	for _, codec := range codecs {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if err := clients[os.Args[1]](ctx, os.Args[2], os.Args[3]+"-"+codec, codec, records); err != nil {
			failed++
			fmt.Printf("FAIL %s: %v\n", codec, err)
		} else {
			fmt.Printf("ok %s\n", codec)
		}
		cancel()
	}
	if failed > 0 {
		os.Exit(1)
	}
}
