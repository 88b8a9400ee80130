import java.io.ByteArrayInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;

/**
 * The JDK's own client as it is by default: on http URLs its requests offer an upgrade to HTTP/2 (h2c).
 *
 * <p>Arguments: a URL that is asked by GET, one to POST to, and a file with the body. Prints a line for each of its requests.
 */
public class JdkClient {
    public static void main(String[] arguments) throws Exception {
        URI get = URI.create(arguments[0]);
        URI post = URI.create(arguments[1]);
        byte[] body = Files.readAllBytes(Path.of(arguments[2]));
        HttpClient client = HttpClient.newHttpClient();
        send(client, "get", HttpRequest.newBuilder(get).GET());
        send(client, "post", posting(post, BodyPublishers.ofByteArray(body)));
        send(client, "post again", posting(post, BodyPublishers.ofByteArray(body)));
        BodyPublisher chunked = BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body));
        send(client, "chunked", posting(post, chunked));
        send(client, "expecting", posting(post, BodyPublishers.ofByteArray(body)).expectContinue(true));
        send(client, "get again", HttpRequest.newBuilder(get).GET());
    }

    static HttpRequest.Builder posting(URI uri, BodyPublisher body) {
        return HttpRequest.newBuilder(uri).header("Content-Type", "application/json").POST(body);
    }

    static void send(HttpClient client, String name, HttpRequest.Builder request) throws Exception {
        var answer = client.send(request.build(), BodyHandlers.ofString());
        System.out.println(name + ": " + answer.version() + " " + answer.statusCode());
    }
}
