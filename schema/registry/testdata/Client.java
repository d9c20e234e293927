import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.TreeSet;
import java.util.concurrent.Callable;
import org.apache.flink.avro.registry.confluent.shaded.io.confluent.kafka.schemaregistry.ParsedSchema;
import org.apache.flink.avro.registry.confluent.shaded.io.confluent.kafka.schemaregistry.avro.AvroSchema;
import org.apache.flink.avro.registry.confluent.shaded.io.confluent.kafka.schemaregistry.client.CachedSchemaRegistryClient;
import org.apache.flink.avro.registry.confluent.shaded.io.confluent.kafka.schemaregistry.client.SchemaRegistryClient;
import org.apache.flink.avro.registry.confluent.shaded.io.confluent.kafka.schemaregistry.client.rest.entities.Config;
import org.apache.flink.avro.registry.confluent.shaded.io.confluent.kafka.schemaregistry.client.rest.entities.SchemaReference;
import org.apache.flink.avro.registry.confluent.shaded.io.confluent.kafka.schemaregistry.client.rest.exceptions.RestClientException;

/**
 * Drives a registry with Confluent's own Java client, out of Flink's jar, where its packages have another name. Arguments: the
 * registry's URL; "user:password", "Bearer token" or ""; the files of its authority, of a client certificate and of its key, or "". Ends with exit code 0 and "ok" when everything is as it has to be.
 */
class Client {
  static final String V1 = "{\"type\":\"record\",\"name\":\"Order\",\"namespace\":\"shop\",\"fields\":[{\"name\":\"id\",\"type\":\"long\"}]}";
  static final String V2 = V1.replace("}]}", "},{\"name\":\"note\",\"type\":[\"null\",\"string\"],\"default\":null}]}");
  static final AvroSchema BAD = new AvroSchema(V1.replace("long", "string"));

  static String url;
  static Map<String, String> conf = new HashMap<>();

  /** A client that has asked nothing yet: what one knows it does not ask for again. */
  static SchemaRegistryClient fresh() {
    return new CachedSchemaRegistryClient(url, 100, conf);
  }

  static void same(Object got, Object want) {
    if (!Objects.equals(got, want)) {
      throw new AssertionError("got " + got + ", want " + want);
    }
  }

  static void listed(Collection<String> got, String... want) {
    same(new TreeSet<>(got), new TreeSet<>(List.of(want)));
  }

  static String refused(int code, Callable<?> call) throws Exception {
    Object answer;
    try {
      answer = call.call();
    } catch (RestClientException e) {
      same(e.getErrorCode(), code);
      same(e.getStatus(), code > 1000 ? code / 100 : code);
      return e.getMessage();
    }
    throw new AssertionError("wanted " + code + ", got " + answer);
  }

  public static void main(String[] args) throws Exception {
    url = args[0];
    String login = args[1];
    if (login.startsWith("Bearer ")) {
      conf = Map.of("bearer.auth.credentials.source", "STATIC_TOKEN", "bearer.auth.token", login.substring("Bearer ".length()));
    } else if (!login.isEmpty()) {
      conf = Map.of("basic.auth.credentials.source", "USER_INFO", "basic.auth.user.info", login);
    }
    if (!args[2].isEmpty()) {
      conf = Map.of("schema.registry.ssl.truststore.type", "PEM", "schema.registry.ssl.truststore.location", args[2],
          "schema.registry.ssl.keystore.type", "PEM",
          "schema.registry.ssl.keystore.certificate.chain", Files.readString(Path.of(args[3])),
          "schema.registry.ssl.keystore.key", Files.readString(Path.of(args[4])));
    }
    SchemaRegistryClient sr = fresh();
    AvroSchema v1 = new AvroSchema(V1), v2 = new AvroSchema(V2);
    String subject = "orders/1 %-value"; // this version of the client cannot write letters beyond ASCII into a path

    // Registering and looking up.
    int first = sr.register(subject, v1);
    int second = sr.register(subject, v2);
    same(first == second, false);
    same(fresh().register(subject, v1), first);
    same(fresh().register("copy", v1), first);
    same(fresh().registerWithResponse("copy", v1, false).getId(), first);
    same(fresh().getId(subject, v1), first);
    same(fresh().getVersion(subject, v2), 2);
    refused(40403, () -> fresh().getId(subject, BAD));
    refused(40401, () -> fresh().getId("nobody", v1));
    refused(42201, () -> fresh().register("bad", new AvroSchema("{\"type\":\"array\",\"items\":\"long\"}") {
      @Override
      public String canonicalString() {
        return "nonsense";
      }
    }));

    // Reading.
    same(fresh().getSchemaById(first), v1);
    same(fresh().getSchemaBySubjectAndId(subject, second), v2);
    refused(40403, () -> fresh().getSchemaById(4711));
    listed(sr.getAllSubjects(), "copy", subject);
    listed(sr.getAllSubjectsByPrefix("co"), "copy");
    listed(sr.getAllSubjectsById(first), "copy", subject);
    same(sr.getAllVersionsById(second).size(), 1);
    same(sr.getAllVersions(subject), List.of(1, 2));
    same(sr.getLatestSchemaMetadata(subject).getId(), second);
    same(sr.getSchemaMetadata(subject, 1).getSchema(), V1);
    same(sr.getByVersion(subject, 1, false).getId(), first);
    same(sr.getSchemas("copy", false, true).equals(List.<ParsedSchema>of(v1)), true);
    refused(40402, () -> fresh().getSchemaMetadata(subject, 9));
    refused(40401, () -> fresh().getAllVersions("nobody"));

    // Compatibility, levels and modes.
    same(sr.testCompatibility(subject, v2), true);
    same(sr.testCompatibility(subject, BAD), false);
    same(sr.testCompatibilityVerbose(subject, BAD).get(0).contains("'id'"), true);
    same(refused(40901, () -> fresh().register(subject, BAD)).contains("'id'"), true);
    same(sr.getConfig(null).getCompatibilityLevel(), "BACKWARD");
    refused(40408, () -> fresh().getConfig(subject));
    same(sr.updateConfig(subject, new Config("NONE")).getCompatibilityLevel(), "NONE");
    same(sr.getConfig(subject).getCompatibilityLevel(), "NONE");
    int third = sr.register(subject, BAD);
    refused(42203, () -> fresh().updateConfig(subject, new Config("SIDEWAYS")));
    sr.deleteConfig(subject);
    refused(40408, () -> fresh().getConfig(subject));
    same(sr.getMode(), "READWRITE");
    same(sr.setMode("READONLY", "frozen"), "READONLY");
    same(sr.getMode("frozen"), "READONLY");
    refused(42205, () -> fresh().register("frozen", v1));
    sr.deleteMode("frozen");
    refused(40409, () -> fresh().getMode("frozen"));
    refused(42205, () -> fresh().setMode("IMPORT", subject));
    same(sr.setMode("IMPORT", "brought"), "IMPORT");
    same(sr.register("brought", new AvroSchema("\"bytes\""), 7, 900), 900);
    same(sr.getAllVersions("brought"), List.of(7));

    // normalize, and a reference.
    AvroSchema loose = new AvroSchema("{\"type\":\"long\",\"z\":1,\"a\":2}");
    same(fresh().getSchemaById(sr.register("normal", loose, true)).canonicalString(), "{\"type\":\"long\",\"a\":2,\"z\":1}");
    String money = "{\"type\":\"record\",\"name\":\"Money\",\"namespace\":\"shop\",\"fields\":[{\"name\":\"cents\",\"type\":\"long\"}]}";
    sr.register("money", new AvroSchema(money));
    AvroSchema price = new AvroSchema("{\"type\":\"array\",\"items\":\"shop.Money\"}", List.of(new SchemaReference("shop.Money", "money", 1)),
        Map.of("shop.Money", money), null);
    AvroSchema back = (AvroSchema) fresh().getSchemaById(sr.register("price", price));
    same(back.rawSchema().getElementType().getFullName(), "shop.Money");
    refused(42206, () -> fresh().deleteSubject("money", false));

    // Deleting, in its order.
    refused(40407, () -> fresh().deleteSchemaVersion(subject, "1", true));
    same(sr.deleteSchemaVersion(subject, "1", false), 1);
    same(sr.getAllVersions(subject), List.of(2, 3));
    same(sr.getAllVersions(subject, true), List.of(1, 2, 3));
    same(fresh().getSchemaById(first), v1);
    refused(40405, () -> fresh().deleteSubject(subject, true));
    same(sr.deleteSubject(subject, false), List.of(2, 3));
    same(sr.getAllSubjects(true).contains(subject), true);
    same(sr.getAllSubjects().contains(subject), false);
    same(sr.deleteSubject(subject, true), List.of(1, 2, 3));
    refused(40401, () -> fresh().deleteSubject(subject, false));
    same(fresh().register("new", new AvroSchema("\"boolean\"")) > Math.max(900, third), true);
    System.out.println("ok");
  }
}
