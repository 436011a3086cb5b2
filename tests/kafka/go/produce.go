package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"
)

// How often a send is repeated while the broker is away; sarama and kafka-go give up after 3 and 10 times unless told otherwise.
const attemptsMax = 200

// asked calls send with each partition and number that standard input asks for.
func asked(send func(partition int32, number int)) error {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var partition int32
		var number int
		if _, err := fmt.Sscan(lines.Text(), &partition, &number); err != nil {
			return fmt.Errorf("a line is PARTITION NUMBER: %w", err)
		}
		send(partition, number)
	}
	return lines.Err()
}

func tellOutcome(partition int32, offset int64, number int, err error) {
	if err != nil {
		tell("refused", number, err)
	} else {
		tell("acked", partition, offset, number)
	}
}

func saramaProduceAsked(bootstrap, topic, codec string) error {
	config := sarama.NewConfig()
	config.Version = sarama.V2_8_0_0
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Idempotent = true
	config.Producer.Retry.Max = attemptsMax
	config.Metadata.Retry.Max = attemptsMax
	config.Net.MaxOpenRequests = 1
	config.Producer.Return.Successes = true
	config.Producer.Partitioner = sarama.NewManualPartitioner
	if err := config.Producer.Compression.UnmarshalText([]byte(codec)); err != nil {
		return err
	}
	producer, err := sarama.NewAsyncProducer([]string{bootstrap}, config)
	if err != nil {
		return err
	}
	var told sync.WaitGroup
	told.Go(func() {
		for m := range producer.Successes() {
			tellOutcome(m.Partition, m.Offset, m.Metadata.(int), nil)
		}
	})
	told.Go(func() {
		for failed := range producer.Errors() {
			tellOutcome(0, 0, failed.Msg.Metadata.(int), failed.Err)
		}
	})
	err = asked(func(partition int32, number int) {
		producer.Input() <- &sarama.ProducerMessage{
			Topic: topic, Partition: partition, Key: sarama.StringEncoder(key(number)), Value: sarama.StringEncoder(value(number)), Metadata: number,
		}
	})
	producer.AsyncClose()
	told.Wait()
	return err
}

func kafkaGoProduceAsked(bootstrap, topic, codec string) error {
	transport := &kafka.Transport{}
	defer transport.CloseIdleConnections()
	type place struct {
		partition int32
		number    int
	}
	writer := &kafka.Writer{
		Transport: transport, Addr: kafka.TCP(bootstrap), Topic: topic, RequiredAcks: kafka.RequireAll, Compression: kafkaGoCodecs[codec], BatchTimeout: 5 * time.Millisecond,
		Async: true, MaxAttempts: attemptsMax,
		Balancer: kafka.BalancerFunc(func(m kafka.Message, _ ...int) int { return int(m.WriterData.(place).partition) }),
		Completion: func(messages []kafka.Message, err error) {
			for _, m := range messages {
				tellOutcome(int32(m.Partition), m.Offset, m.WriterData.(place).number, err)
			}
		},
	}
	var failed error
	err := asked(func(partition int32, number int) {
		message := kafka.Message{Key: []byte(key(number)), Value: []byte(value(number)), WriterData: place{partition, number}}
		if err := writer.WriteMessages(context.Background(), message); err != nil && failed == nil {
			failed = err
		}
	})
	if err := writer.Close(); err != nil {
		return err
	}
	if failed != nil {
		return failed
	}
	return err
}

func franzProduceAsked(bootstrap, topic, codec string) error {
	producer, err := kgo.NewClient(kgo.SeedBrokers(bootstrap), kgo.ProducerBatchCompression(franzCodecs[codec]), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return err
	}
	defer producer.Close()
	err = asked(func(partition int32, number int) {
		record := &kgo.Record{Topic: topic, Partition: partition, Key: []byte(key(number)), Value: []byte(value(number))}
		producer.Produce(context.Background(), record, func(r *kgo.Record, err error) { tellOutcome(r.Partition, r.Offset, number, err) })
	})
	if err != nil {
		return err
	}
	return producer.Flush(context.Background())
}
