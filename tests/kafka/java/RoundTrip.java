import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;

/** kafka-clients: RoundTrip BOOTSTRAP PREFIX RECORDS; a line "ok CASE" or "FAIL CASE: reason" for each codec. */
public class RoundTrip {
  static final int PARTITIONS = 3;

  static String value(int i) {
    return ("value " + i + " ").repeat(1 + i % 7);
  }

  static void check(boolean holds, String otherwise) {
    if (!holds) throw new IllegalStateException(otherwise);
  }

  static void produce(String bootstrap, String topic, String codec, int records) throws Exception {
    Map<String, Object> settings = Map.of("bootstrap.servers", bootstrap, "acks", "all", "compression.type", codec,
        "key.serializer", "org.apache.kafka.common.serialization.StringSerializer",
        "value.serializer", "org.apache.kafka.common.serialization.StringSerializer");
    try (KafkaProducer<String, String> producer = new KafkaProducer<>(settings)) {
      List<Future<RecordMetadata>> sent = new ArrayList<>();
      for (int i = 0; i < records; i++) {
        ProducerRecord<String, String> record = new ProducerRecord<>(topic, i % PARTITIONS, "key " + i, value(i));
        record.headers().add("n", Integer.toString(i).getBytes()).add("n", "again".getBytes());
        sent.add(producer.send(record));
      }
      for (int i = 0; i < records; i++) {
        RecordMetadata place = sent.get(i).get(30, TimeUnit.SECONDS);
        check(place.partition() == i % PARTITIONS && place.offset() == i / PARTITIONS, "record " + i + " acknowledged at " + place);
      }
    }
  }

  static void consume(String bootstrap, String topic, int records) {
    Map<String, Object> settings = Map.of("bootstrap.servers", bootstrap, "enable.auto.commit", "false",
        "key.deserializer", "org.apache.kafka.common.serialization.StringDeserializer",
        "value.deserializer", "org.apache.kafka.common.serialization.StringDeserializer");
    try (KafkaConsumer<String, String> consumer = new KafkaConsumer<>(settings)) {
      List<TopicPartition> places = new ArrayList<>();
      for (int p = 0; p < PARTITIONS; p++) places.add(new TopicPartition(topic, p));
      consumer.assign(places);
      consumer.seekToBeginning(places);
      int[] following = new int[PARTITIONS];
      int read = 0;
      long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(30);
      while (read < records) {
        check(System.nanoTime() < deadline, "read " + read + " of " + records + " in 30 s");
        for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofSeconds(1))) {
          int p = record.partition();
          int i = following[p] * PARTITIONS + p;
          check(record.offset() == following[p] && record.key().equals("key " + i) && record.value().equals(value(i)),
              "partition " + p + ": offset " + record.offset() + " holds " + record.key());
          List<String> headers = new ArrayList<>();
          for (Header header : record.headers()) headers.add(header.key() + "=" + new String(header.value()));
          check(headers.equals(List.of("n=" + i, "n=again")), "headers " + headers);
          following[p]++;
          read++;
        }
      }
    }
  }

  public static void main(String[] args) throws Exception {
    int failed = 0;
    for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
      String topic = args[1] + "-" + codec;
      try (Admin admin = Admin.create(Map.of("bootstrap.servers", args[0]))) {
        admin.createTopics(Collections.singleton(new NewTopic(topic, PARTITIONS, (short) 1))).all().get(20, TimeUnit.SECONDS);
        produce(args[0], topic, codec, Integer.parseInt(args[2]));
        consume(args[0], topic, Integer.parseInt(args[2]));
        System.out.println("ok " + codec);
      } catch (Exception error) {
        failed++;
        System.out.println("FAIL " + codec + ": " + error);
      }
    }
    System.exit(failed == 0 ? 0 : 1);
  }
}
