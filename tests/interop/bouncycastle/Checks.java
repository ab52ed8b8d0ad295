import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.FileInputStream;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.Provider;
import java.security.Security;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.cert.TrustAnchor;
import java.security.cert.X509Certificate;
import java.security.spec.ECGenParameterSpec;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import javax.net.ssl.KeyManager;
import javax.net.ssl.KeyManagerFactory;
import javax.security.auth.x500.X500Principal;
import org.bouncycastle.asn1.ASN1Primitive;
import org.bouncycastle.asn1.cms.CMSObjectIdentifiers;
import org.bouncycastle.asn1.cms.ContentInfo;
import org.bouncycastle.asn1.pkcs.PrivateKeyInfo;
import org.bouncycastle.asn1.x509.SubjectKeyIdentifier;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.cms.CMSEnvelopedData;
import org.bouncycastle.cms.CMSSignedData;
import org.bouncycastle.cms.KeyAgreeRecipientId;
import org.bouncycastle.cms.KeyTransRecipientId;
import org.bouncycastle.cms.Recipient;
import org.bouncycastle.cms.RecipientId;
import org.bouncycastle.cms.RecipientInformation;
import org.bouncycastle.cms.SignerInformation;
import org.bouncycastle.cms.jcajce.JcaSimpleSignerInfoVerifierBuilder;
import org.bouncycastle.cms.jcajce.JceKeyAgreeEnvelopedRecipient;
import org.bouncycastle.cms.jcajce.JceKeyTransEnvelopedRecipient;
import org.bouncycastle.est.CACertsResponse;
import org.bouncycastle.est.CSRRequestResponse;
import org.bouncycastle.est.ESTAuth;
import org.bouncycastle.est.ESTException;
import org.bouncycastle.est.ESTService;
import org.bouncycastle.est.EnrollmentResponse;
import org.bouncycastle.est.jcajce.ChannelBindingProvider;
import org.bouncycastle.est.jcajce.JcaHttpAuthBuilder;
import org.bouncycastle.est.jcajce.JcaJceUtils;
import org.bouncycastle.est.jcajce.JsseDefaultHostnameAuthorizer;
import org.bouncycastle.est.jcajce.JsseESTServiceBuilder;
import org.bouncycastle.jce.provider.BouncyCastleProvider;
import org.bouncycastle.jsse.BCSSLSocket;
import org.bouncycastle.jsse.provider.BouncyCastleJsseProvider;
import org.bouncycastle.openssl.jcajce.JcaPEMKeyConverter;
import org.bouncycastle.operator.ContentSigner;
import org.bouncycastle.operator.jcajce.JcaContentSignerBuilder;
import org.bouncycastle.pkcs.PKCS10CertificationRequestBuilder;
import org.bouncycastle.pkcs.jcajce.JcaPKCS10CertificationRequestBuilder;
import org.bouncycastle.util.Store;

/**
 * BouncyCastle's EST client at work, for tests that are written in Python: one JVM for many checks.
 *
 * <p>Argument: a PEM file of trust anchors. Each line of standard input is a check: a name, then settings as key=value, divided
 * by tabs, of which server=host:port is always there. Each line of standard output is what came of it, as a JSON object. The
 * key and the certificate of a device stay under the name given as device=, so that a later check may renew them.
 *
 * <p>Nothing of kipuka is in here: it is what a Java device would write.
 */
public final class Checks {
    private static final Provider BC = new BouncyCastleProvider();
    private static final Provider JSSE = new BouncyCastleJsseProvider(BC);

    private final Set<TrustAnchor> anchors = new HashSet<>();
    private final Map<String, KeyPair> keys = new HashMap<>();
    private final Map<String, X509Certificate> certificates = new HashMap<>();
    private final Map<String, EnrollmentResponse> waiting = new HashMap<>();

    private Checks(Path trust) throws Exception {
        try (InputStream in = new FileInputStream(trust.toFile())) {
            for (Certificate certificate : CertificateFactory.getInstance("X.509").generateCertificates(in)) {
                anchors.add(new TrustAnchor((X509Certificate) certificate, null));
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        Security.addProvider(BC);
        Security.addProvider(JSSE);
        Checks checks = new Checks(Path.of(arguments[0]));
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] words = line.split("\t");
            Map<String, String> settings = new HashMap<>();
            for (int index = 1; index < words.length; index++) {
                String[] pair = words[index].split("=", 2);
                settings.put(pair[0], pair[1]);
            }
            System.out.println(json(checks.run(words[0], settings)));
            System.out.flush();
        }
    }

    private Map<String, String> run(String check, Map<String, String> settings) {
        Map<String, String> seen = new LinkedHashMap<>();
        try {
            switch (check) {
                case "cacerts" -> caCertificates(settings, seen);
                case "csrattrs" -> attributes(settings, seen);
                case "enrol" -> enrol(settings, seen);
                case "again" -> again(settings, seen);
                case "keygen" -> keygen(settings, seen);
                case "open" -> open(settings, seen);
                default -> throw new IllegalArgumentException(check);
            }
            seen.putIfAbsent("result", "ok");
        } catch (ESTException refused) {
            seen.put("result", "refused");
            seen.put("status", Integer.toString(refused.getStatusCode()));
            seen.put("said", refused.getMessage());
            seen.put("body", text(refused));
        } catch (Exception failed) {
            seen.put("result", "failed");
            seen.put("said", failed.toString());
        }
        return seen;
    }

    // -- the checks --------------------------------------------------------------------------------------------------

    private void caCertificates(Map<String, String> settings, Map<String, String> seen) throws Exception {
        CACertsResponse answer = service(settings).getCACerts();
        List<String> found = new ArrayList<>();
        for (X509CertificateHolder holder : all(answer.getCertificateStore())) {
            found.add(Base64.getEncoder().encodeToString(holder.getEncoded()));
        }
        seen.put("certificates", String.join(" ", found));
        seen.put("trusted", Boolean.toString(answer.isTrusted()));
    }

    private void attributes(Map<String, String> settings, Map<String, String> seen) throws Exception {
        CSRRequestResponse answer = service(settings).getCSRAttributes();
        seen.put("attributes", Boolean.toString(answer.hasAttributesResponse()));
    }

    private void enrol(Map<String, String> settings, Map<String, String> seen) throws Exception {
        boolean renewal = settings.containsKey("renew");
        String device = settings.get("device");
        ESTService service = service(settings);
        ESTAuth auth = null;
        if (settings.containsKey("token")) {
            auth = new JcaHttpAuthBuilder(settings.getOrDefault("user", "device"), settings.get("token").toCharArray())
                .setProvider(BC)
                .build();
        }
        KeyPair pair = key(settings.getOrDefault("key", "P-256"));
        String algorithm = pair.getPublic().getAlgorithm().equals("RSA") ? "SHA256withRSA" : "SHA256withECDSA";
        ContentSigner signer = new JcaContentSignerBuilder(algorithm).setProvider(BC).build(pair.getPrivate());
        PKCS10CertificationRequestBuilder request =
            new JcaPKCS10CertificationRequestBuilder(new X500Principal("CN=" + device), pair.getPublic());
        EnrollmentResponse answer = settings.containsKey("linked")
            ? service.simpleEnrollPoP(renewal, request, signer, auth)
            : service.simpleEnroll(renewal, request.build(signer), auth);
        keys.put(device, pair);
        settle(device, answer, seen);
    }

    /** The same request once more, as the client's own object has kept it, when the time has come. */
    private void again(Map<String, String> settings, Map<String, String> seen) throws Exception {
        String device = settings.get("device");
        while (!waiting.get(device).canRetry()) {
            Thread.sleep(50);
        }
        settle(device, service(settings).simpleEnroll(waiting.get(device)), seen);
    }

    /** The server makes the key: `simpleEnrollWithServersideCreation`. */
    private void keygen(Map<String, String> settings, Map<String, String> seen) throws Exception {
        String device = settings.get("device");
        ESTAuth auth = null;
        if (settings.containsKey("token")) {
            auth = new JcaHttpAuthBuilder("device", settings.get("token").toCharArray()).setProvider(BC).build();
        }
        KeyPair pair = key(settings.getOrDefault("key", "P-256"));
        String algorithm = pair.getPublic().getAlgorithm().equals("RSA") ? "SHA256withRSA" : "SHA256withECDSA";
        ContentSigner signer = new JcaContentSignerBuilder(algorithm).setProvider(BC).build(pair.getPrivate());
        PKCS10CertificationRequestBuilder request =
            new JcaPKCS10CertificationRequestBuilder(new X500Principal("CN=" + device), pair.getPublic());
        EnrollmentResponse answer = settings.containsKey("linked")
            ? service(settings).simpleEnrollPopWithServersideCreation(request, signer, auth)
            : service(settings).simpleEnrollWithServersideCreation(request.build(signer), auth);
        settle(device, answer, seen);
        seen.put("key", Base64.getEncoder().encodeToString(answer.getPrivateKeyInfo().getEncoded()));
        PrivateKey made = new JcaPEMKeyConverter().setProvider(BC).getPrivateKey(answer.getPrivateKeyInfo());
        keys.put(device, new KeyPair(certificates.get(device).getPublicKey(), made));
    }

    /** A private key that was sent encrypted: the message, the recipient's key and certificate, and who may have signed. */
    private void open(Map<String, String> settings, Map<String, String> seen) throws Exception {
        CMSEnvelopedData message = new CMSEnvelopedData(Base64.getDecoder().decode(settings.get("message")));
        PrivateKeyInfo info = PrivateKeyInfo.getInstance(Base64.getDecoder().decode(settings.get("key")));
        PrivateKey key = new JcaPEMKeyConverter().setProvider(BC).getPrivateKey(info);
        X509CertificateHolder own = new X509CertificateHolder(Base64.getDecoder().decode(settings.get("certificate")));
        Recipient recipient = key.getAlgorithm().equals("RSA")
            ? new JceKeyTransEnvelopedRecipient(key).setProvider(BC)
            : new JceKeyAgreeEnvelopedRecipient(key).setProvider(BC);
        RecipientId whose = key.getAlgorithm().equals("RSA")
            ? new KeyTransRecipientId(own.getIssuer(), own.getSerialNumber(), subjectKeyIdentifier(own))
            : new KeyAgreeRecipientId(own.getIssuer(), own.getSerialNumber());
        RecipientInformation found = message.getRecipientInfos().get(whose);
        if (found == null) {
            found = message.getRecipientInfos().getRecipients().iterator().next();
        }
        byte[] decrypted = found.getContent(recipient);
        ContentInfo wrapped = new ContentInfo(CMSObjectIdentifiers.signedData, ASN1Primitive.fromByteArray(decrypted));
        CMSSignedData signed = new CMSSignedData(wrapped);
        seen.put("content", signed.getSignedContentTypeOID());
        for (SignerInformation signer : signed.getSignerInfos().getSigners()) {
            @SuppressWarnings("unchecked")
            X509CertificateHolder by =
                (X509CertificateHolder) signed.getCertificates().getMatches(signer.getSID()).iterator().next();
            seen.put("signer", by.getSubject().toString());
            seen.put("verified", Boolean.toString(
                signer.verify(new JcaSimpleSignerInfoVerifierBuilder().setProvider(BC).build(by))));
        }
        byte[] content = (byte[]) signed.getSignedContent().getContent();
        seen.put("package", Base64.getEncoder().encodeToString(content));
    }

    private static byte[] subjectKeyIdentifier(X509CertificateHolder certificate) {
        return SubjectKeyIdentifier.fromExtensions(certificate.getExtensions()).getKeyIdentifier();
    }

    private void settle(String device, EnrollmentResponse answer, Map<String, String> seen) throws Exception {
        if (!answer.isCompleted()) {
            waiting.put(device, answer);
            seen.put("result", "pending");
            seen.put("now", Boolean.toString(answer.canRetry()));
            return;
        }
        List<X509CertificateHolder> issued = all(answer.getStore());
        seen.put("count", Integer.toString(issued.size()));
        seen.put("certificate", Base64.getEncoder().encodeToString(issued.get(0).getEncoded()));
        certificates.put(
            device,
            (X509Certificate) CertificateFactory.getInstance("X.509")
                .generateCertificate(new ByteArrayInputStream(issued.get(0).getEncoded())));
    }

    // -- the client --------------------------------------------------------------------------------------------------

    private ESTService service(Map<String, String> settings) throws Exception {
        String server = settings.get("server");
        JsseESTServiceBuilder builder = settings.containsKey("bootstrap")
            ? new JsseESTServiceBuilder(server, JcaJceUtils.getTrustAllTrustManager())
            : new JsseESTServiceBuilder(server, JcaJceUtils.getCertPathTrustManager(anchors, null));
        builder.withProvider(JSSE);
        builder.withTLSVersion(settings.getOrDefault("tls", "TLS"));
        builder.withTimeout(30_000);
        builder.withHostNameAuthorizer(new JsseDefaultHostnameAuthorizer(Collections.emptySet()));
        builder.withChannelBindingProvider(new Bindings());
        if (settings.containsKey("label")) {
            builder.withLabel(settings.get("label"));
        }
        if (settings.containsKey("certificate")) {
            builder.withKeyManagers(keyManagers(settings.get("certificate")));
        }
        return builder.build();
    }

    private KeyManager[] keyManagers(String device) throws Exception {
        KeyStore store = KeyStore.getInstance("PKCS12", BC);
        store.load(null, null);
        store.setKeyEntry(device, keys.get(device).getPrivate(), null, new Certificate[] {certificates.get(device)});
        KeyManagerFactory factory = KeyManagerFactory.getInstance("PKIX", JSSE);
        factory.init(store, null);
        return factory.getKeyManagers();
    }

    private static KeyPair key(String kind) throws Exception {
        KeyPairGenerator generator = KeyPairGenerator.getInstance(kind.equals("RSA") ? "RSA" : "EC", BC);
        if (kind.equals("RSA")) {
            generator.initialize(2048);
        } else {
            generator.initialize(new ECGenParameterSpec(kind));
        }
        return generator.generateKeyPair();
    }

    /** RFC 5929, section 3: only TLS 1.2 has it; BouncyCastle's sockets give it out. */
    private static final class Bindings implements ChannelBindingProvider {
        @Override
        public boolean canAccessChannelBinding(Socket socket) {
            return socket instanceof BCSSLSocket;
        }

        @Override
        public byte[] getChannelBinding(Socket socket, String binding) {
            return ((BCSSLSocket) socket).getConnection().getChannelBinding(binding);
        }
    }

    // -- what is written ---------------------------------------------------------------------------------------------

    private static List<X509CertificateHolder> all(Store<X509CertificateHolder> store) {
        return new ArrayList<>(store.getMatches(null));
    }

    private static String text(ESTException refused) {
        try (InputStream body = refused.getBody()) {
            return body == null ? "" : new String(body.readAllBytes(), StandardCharsets.UTF_8);
        } catch (Exception unreadable) {
            return unreadable.toString();
        }
    }

    private static String json(Map<String, String> seen) {
        List<String> members = new ArrayList<>();
        seen.forEach((name, value) -> members.add(quote(name) + ":" + quote(value)));
        return "{" + String.join(",", members) + "}";
    }

    private static String quote(String text) {
        StringBuilder quoted = new StringBuilder("\"");
        for (char character : String.valueOf(text).toCharArray()) {
            if (character < ' ' || character == '"' || character == '\\' || character > '~') {
                quoted.append(String.format("\\u%04x", (int) character));
            } else {
                quoted.append(character);
            }
        }
        return quoted.append('"').toString();
    }
}
