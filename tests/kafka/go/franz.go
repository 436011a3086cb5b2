package main

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

var franzCodecs = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

func franzRoundTrip(ctx context.Context, bootstrap, topic, codec string, records int) error {
	from := map[int32]kgo.Offset{}
	for p := range int32(partitions) {
		from[p] = kgo.NewOffset().AtStart()
	}
	producer, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.ProducerBatchCompression(franzCodecs[codec]), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return err
	}
	defer producer.Close()
	if _, err := kadm.NewClient(producer).CreateTopic(ctx, partitions, 1, nil, topic); err != nil {
		return err
	}
	sent := make([]*kgo.Record, records)
	for i := range sent {
		sent[i] = &kgo.Record{Topic: topic, Partition: int32(i % partitions), Key: []byte(key(i)), Value: []byte(value(i))}
		for _, h := range headers(i) {
			sent[i].Headers = append(sent[i].Headers, kgo.RecordHeader{Key: h.key, Value: []byte(h.value)})
		}
	}
	for _, result := range producer.ProduceSync(ctx, sent...) {
		if result.Err != nil {
			return result.Err
		}
	}
	for i, record := range sent {
		if record.Offset != int64(i/partitions) {
			return fmt.Errorf("record %d acknowledged at %d/%d", i, record.Partition, record.Offset)
		}
	}
	consumer, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}))
	if err != nil {
		return err
	}
	defer consumer.Close()
	return franzConsume(ctx, consumer, records)
}

func franzConsume(ctx context.Context, consumer *kgo.Client, records int) error {
	var following [partitions]int64
	for read := 0; read < records; {
		fetches := consumer.PollFetches(ctx)
		if errors := fetches.Errors(); len(errors) > 0 {
			return errors[0].Err
		}
		for _, r := range fetches.Records() {
			var got []header
			for _, h := range r.Headers {
				got = append(got, header{h.Key, string(h.Value)})
			}
			if err := expect(int(r.Partition), following[r.Partition], r.Offset, string(r.Key), string(r.Value), got); err != nil {
				return err
			}
			following[r.Partition]++
			read++
		}
	}
	return nil
}
