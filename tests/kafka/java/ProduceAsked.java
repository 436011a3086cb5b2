import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.Map;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;

/** kafka-clients: ProduceAsked produce BOOTSTRAP TOPIC CODEC; sends what standard input asks for and tells what was acknowledged. */
public class ProduceAsked {
  public static void main(String[] args) throws Exception {
    Map<String, Object> settings = Map.of("bootstrap.servers", args[1], "acks", "all", "compression.type", args[3],
        "key.serializer", "org.apache.kafka.common.serialization.StringSerializer",
        "value.serializer", "org.apache.kafka.common.serialization.StringSerializer");
    BufferedReader asked = new BufferedReader(new InputStreamReader(System.in));
    try (KafkaProducer<String, String> producer = new KafkaProducer<>(settings)) {
      for (String line = asked.readLine(); line != null; line = asked.readLine()) {
        String[] words = line.split(" ");
        int number = Integer.parseInt(words[1]);
        producer.send(new ProducerRecord<>(args[2], Integer.valueOf(words[0]), "key " + number, RoundTrip.value(number)),
            (place, error) -> System.out.println(
                error == null ? "acked " + place.partition() + " " + place.offset() + " " + number : "refused " + number + " " + error));
      }
    }
  }
}
