import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.HexFormat;
import org.apache.avro.Conversions;
import org.apache.avro.Schema;
import org.apache.avro.data.TimeConversions;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.io.DecoderFactory;

/**
 * Decodes values with Apache Avro, with the conversions of logical types that generated classes have, and prints what each
 * becomes in a line; see read.py for the form of both.
 */
class Read {
  public static void main(String[] args) throws Exception {
    GenericData data = new GenericData();
    data.addLogicalTypeConversion(new Conversions.DecimalConversion());
    data.addLogicalTypeConversion(new Conversions.UUIDConversion());
    data.addLogicalTypeConversion(new TimeConversions.DateConversion());
    data.addLogicalTypeConversion(new TimeConversions.TimeMicrosConversion());
    data.addLogicalTypeConversion(new TimeConversions.TimeMillisConversion());
    data.addLogicalTypeConversion(new TimeConversions.TimestampMicrosConversion());
    data.addLogicalTypeConversion(new TimeConversions.TimestampMillisConversion());
    data.addLogicalTypeConversion(new TimeConversions.LocalTimestampMicrosConversion());
    ObjectMapper json = new ObjectMapper();
    BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line; (line = in.readLine()) != null; ) {
      JsonNode c = json.readTree(line);
      String said;
      try {
        Schema schema = new Schema.Parser().parse(c.get("schema").asText());
        byte[] avro = HexFormat.of().parseHex(c.get("avro").asText());
        said = String.valueOf(new GenericDatumReader<Object>(schema, schema, data).read(null, DecoderFactory.get().binaryDecoder(avro, null)));
      } catch (Exception e) {
        said = e.getClass().getSimpleName();
      }
      ObjectNode out = json.createObjectNode().put("name", c.get("name").asText()).put("said", said);
      System.out.println(json.writeValueAsString(out));
    }
  }
}
