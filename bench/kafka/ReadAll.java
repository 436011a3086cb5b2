import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;

/**
 * Reads RECORDS records of a topic from its beginning, by assignment: ReadAll BOOTSTRAP TOPIC RECORDS. Prints one JSON object.
 *
 * <p>Consumer settings are Kafka's defaults. Without a group, so that the figure is the fetch path's and nothing else's.
 */
public class ReadAll {
  public static void main(String[] args) {
    long wanted = Long.parseLong(args[2]);
    Map<String, Object> settings = Map.of("bootstrap.servers", args[0], "enable.auto.commit", "false", "auto.offset.reset", "earliest",
        "key.deserializer", "org.apache.kafka.common.serialization.ByteArrayDeserializer",
        "value.deserializer", "org.apache.kafka.common.serialization.ByteArrayDeserializer");
    try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(settings)) {
      List<TopicPartition> places = new ArrayList<>();
      for (PartitionInfo info : consumer.partitionsFor(args[1])) places.add(new TopicPartition(args[1], info.partition()));
      consumer.assign(places);
      consumer.seekToBeginning(places);
      long records = 0;
      long bytes = 0;
      long start = System.nanoTime();
      long last = start;
      while (records < wanted && System.nanoTime() - last < 20_000_000_000L) {
        for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(500))) {
          records++;
          bytes += record.serializedValueSize();
          last = System.nanoTime();
        }
      }
      double seconds = (last - start) / 1e9;
      System.out.printf("{\"records\": %d, \"records_per_s\": %.0f, \"mib_per_s\": %.1f, \"mib\": %.1f}%n",
          records, records / seconds, bytes / seconds / (1 << 20), bytes / (double) (1 << 20));
      System.exit(records == wanted ? 0 : 1);
    }
  }
}
