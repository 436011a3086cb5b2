package main

import (
	"context"
	"time"

	"github.com/segmentio/kafka-go"
)

var kafkaGoCodecs = map[string]kafka.Compression{
	"none": 0, "gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd,
}

func kafkaGoRoundTrip(ctx context.Context, bootstrap, topic, codec string, records int) error {
	connection, err := kafka.DialContext(ctx, "tcp", bootstrap)
	if err != nil {
		return err
	}
	defer connection.Close()
	if err := connection.CreateTopics(kafka.TopicConfig{Topic: topic, NumPartitions: partitions, ReplicationFactor: 1}); err != nil {
		return err
	}
	// The default transport is shared and remembers for seconds that a topic did not exist.
	transport := &kafka.Transport{}
	defer transport.CloseIdleConnections()
	writer := &kafka.Writer{
		Transport: transport, Addr: kafka.TCP(bootstrap), Topic: topic, RequiredAcks: kafka.RequireAll, Compression: kafkaGoCodecs[codec], BatchTimeout: 5 * time.Millisecond,
		Balancer: &kafka.RoundRobin{},
	}
	defer writer.Close()
	messages := make([]kafka.Message, records)
	for i := range messages {
		messages[i] = kafka.Message{Key: []byte(key(i)), Value: []byte(value(i))}
		for _, h := range headers(i) {
			messages[i].Headers = append(messages[i].Headers, kafka.Header{Key: h.key, Value: []byte(h.value)})
		}
	}
	if err := writer.WriteMessages(ctx, messages...); err != nil {
		return err
	}
	for p := range partitions {
		if err := kafkaGoConsume(ctx, bootstrap, topic, p, records); err != nil {
			return err
		}
	}
	return nil
}

func kafkaGoConsume(ctx context.Context, bootstrap, topic string, partition, records int) error {
	reader := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{bootstrap}, Topic: topic, Partition: partition, MaxBytes: 1 << 20, MaxWait: 200 * time.Millisecond})
	defer reader.Close()
	for following := int64(0); int(following)*partitions+partition < records; following++ {
		m, err := reader.ReadMessage(ctx)
		if err != nil {
			return err
		}
		var got []header
		for _, h := range m.Headers {
			got = append(got, header{h.Key, string(h.Value)})
		}
		if err := expect(partition, following, m.Offset, string(m.Key), string(m.Value), got); err != nil {
			return err
		}
	}
	return nil
}
